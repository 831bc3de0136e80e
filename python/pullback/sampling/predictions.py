"""From what a network predicts to the data and the noise in its latents."""

from __future__ import annotations

import torch

#: What networks predict. In terms of the data and the noise of x = signal x_0 + sigma ε:
#: "epsilon" is ε, "sample" is x_0, "flow" is ε − x_0, "v_prediction" is signal ε − sigma x_0
#: (Salimans and Ho 2022, arXiv:2202.00512), where the data are divided by their deviation and
#: signal is multiplied by it; "negative_v_prediction" is the negative of that, the F of EDM
#: (Karras et al. 2022, arXiv:2206.00364).
PREDICTIONS = ("epsilon", "sample", "flow", "v_prediction", "negative_v_prediction")


def noise_of(
    kind: str,
    prediction: torch.Tensor,
    x: torch.Tensor,
    signal: torch.Tensor | float,
    sigma: torch.Tensor | float,
    deviation: float = 1.0,
) -> torch.Tensor:
    """The noise ε in latents by a prediction.

    Args:
        kind: what is predicted, one of `PREDICTIONS`.
        prediction: what the network returned, `[B, ...]`.
        x: the latents, `[B, ...]`.
        signal: what they hold of the data, a number or `[B, 1, ...]`.
        sigma: what they hold of noise, likewise, `[B, 1, ...]`.
        deviation: of the data, as the network was told in training.

    Returns:
        The noise, `[B, ...]`. Where only the data are predicted it is divided by sigma.
    """
    if kind == "epsilon":
        return prediction
    if kind == "sample":
        return (x - signal * prediction) / sigma
    if kind == "flow":  # signal + sigma = 1
        return x + signal * prediction
    v = prediction if kind == "v_prediction" else -prediction
    return deviation * signal * v + sigma * x


def clean_of(
    kind: str,
    prediction: torch.Tensor,
    x: torch.Tensor,
    signal: torch.Tensor | float,
    sigma: torch.Tensor | float,
    deviation: float = 1.0,
) -> torch.Tensor:
    """The data x̂_0 in latents by a prediction.

    Args:
        kind: what is predicted, one of `PREDICTIONS`.
        prediction: what the network returned, `[B, ...]`.
        x: the latents, `[B, ...]`.
        signal: what they hold of the data, a number or `[B, 1, ...]`.
        sigma: what they hold of noise, likewise, `[B, 1, ...]`.
        deviation: of the data, as the network was told in training.

    Returns:
        The data, `[B, ...]`. Where only the noise is predicted it is divided by signal.
    """
    if kind == "epsilon":
        return (x - sigma * prediction) / signal
    if kind == "sample":
        return prediction
    if kind == "flow":
        return x - sigma * prediction
    v = prediction if kind == "v_prediction" else -prediction
    return deviation * (deviation * signal * x - sigma * v)
