"""The baseline of `boundary`: the linear machine on the rows themselves, as published.

Zhu et al. 2023 (arXiv:2302.08357) give the features of N samples, as float64 rows of all their p
entries and as they come, to scikit-learn's `SVC(kernel="linear", C=1)`. This is our own writing of
that call, faithful also in what it spends, since that is what is compared: libsvm takes every entry
of its kernel as a product of two rows, one by one, at its own tolerance of 1e-3, and copies the
rows of its support vectors. The normal is their weighted sum, by its norm.

Given to it for free: the normal of h has norm 1, which the published code forgets at times, and
nothing is written to disk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MachineOnRows:
    """What the call returns.

    Attributes:
        normal: `[p]`, float64, of norm 1, towards the second class.
        support: how many of the samples are support vectors.
    """

    normal: torch.Tensor
    support: int


def machine_on_rows(features: torch.Tensor, labels: torch.Tensor) -> MachineOnRows:
    """The hyperplane between two classes of features, as published.

    Args:
        features: `[N, *shape]`.
        labels: `[N]`, of two values.

    Cost: a float64 copy of the features, one of those of the support vectors, and up to N² p
    products of single rows.
    """
    from sklearn.svm import SVC  # which the other benchmarks do without

    rows = features.flatten(1).double().cpu().numpy()
    found = SVC(kernel="linear", C=1).fit(rows, labels.cpu().numpy())
    weights = torch.tensor(found.coef_[0])
    return MachineOnRows(weights / weights.norm(), len(found.support_))
