"""A small network of one's own, forward passes of it by hand, and the comparison of maps."""

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

from pullback import LatentModel
from pullback.testing import dense, dense_jacobian

C, H, W, WIDE, WORDS, TEXT = 2, 3, 4, 6, 2, 5
T = 400
TAPS = [("first", "first"), (("pair", 1), "pair"), ("pair:1", "pair"), ("middle", "middle")]


class Block(nn.Module):
    """Mixes channels and neighbours; counts the calls of its forward pass."""

    def __init__(self, width, twice=False):
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.twice, self.calls = twice, 0

    def forward(self, h, shift):
        self.calls += 1
        h = h + torch.tanh(self.mix(h) + shift[:, :, None, None])
        return (shift, h) if self.twice else h


class Denoiser(nn.Module):
    """`first` → `pair` (two tensors) → `middle` → `last`, with a skip from first to last."""

    def __init__(self):
        super().__init__()
        self.into = nn.Conv2d(C, WIDE, 1)
        self.first = Block(WIDE)
        self.pair = Block(WIDE, twice=True)
        self.middle = Block(WIDE)
        self.last = Block(WIDE)
        self.out = nn.Conv2d(WIDE, C, 1)
        self.text = nn.Linear(TEXT, WIDE)
        self.unused = nn.Linear(2, 2)

    def forward(self, x, t, encoder_hidden_states=None):
        shift = torch.sin(t.to(x) / 100)[:, None] * torch.arange(1.0, WIDE + 1).to(x) / WIDE
        if encoder_hidden_states is not None:
            shift = shift + torch.tanh(self.text(encoder_hidden_states)).mean(1)
        skip = self.first(self.into(x), shift)
        _, h = self.pair(skip, shift)
        h = self.middle(h, shift)
        h += skip  # in place, on the feature itself
        return self.out(self.last(h, shift))

    @property
    def blocks(self):
        return self.first, self.pair, self.middle, self.last

    def parts(self, x, t, words=None):
        """All that the forward pass makes on its way, for hand-written splits."""
        shift = torch.sin(t.to(x) / 100)[:, None] * torch.arange(1.0, WIDE + 1).to(x) / WIDE
        if words is not None:
            shift = shift + torch.tanh(self.text(words)).mean(1)
        skip = self.first(self.into(x), shift)
        pair = self.pair(skip, shift)[1]
        return {"shift": shift, "skip": skip, "pair": pair, "middle": self.middle(pair, shift)}

    def rest(self, tap, h, parts):
        """The output from the feature at a tap, all else held."""
        shift = parts["shift"]
        if tap == "first":
            # The skip is the feature itself.
            h = self.middle(self.pair(h, shift)[1], shift) + h
        elif tap == "pair":
            h = self.middle(h, shift) + parts["skip"]
        else:
            h = h + parts["skip"]
        return self.out(self.last(h, shift))


def model_of(network, kind="epsilon", **options):
    """The network as a model whose scheduler says that it predicts this."""
    if kind == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler()
    else:
        scheduler = DDPMScheduler(prediction_type=kind)
    return LatentModel(network, scheduler, latent_shape=(C, H, W), **options)


def times(x, t=T):
    return torch.full((len(x),), t)


def jacobians(f, point):
    """Dense Jacobians [B, m, n] of f(point, rows of the batch), in reverse mode."""
    return dense_jacobian(f, point, torch.arange(len(point)), mode="reverse")


def check(map, x, cond, f, point):
    """A map's value and Jacobians are those of a hand-written f(point, rows), rows of the batch."""
    bound = map.at(x, T, cond)
    assert torch.equal(bound.point, point)
    everything = slice(0, len(x))
    torch.testing.assert_close(bound.value(), f(point, everything), rtol=1e-10, atol=1e-12)
    truth = jacobians(f, point)
    torch.testing.assert_close(dense(bound.operator()), truth, rtol=1e-8, atol=1e-10)
    # The same pass by pass, and within next to no memory.
    for options in ({"chunk": 1}, {"memory": 1}):
        torch.testing.assert_close(dense(bound.operator(**options)), truth, rtol=1e-8, atol=1e-10)
    return truth
