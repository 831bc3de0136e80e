"""Local bases of given vectors, for tests of what is made of bases."""

import torch

from pullback import LocalBasis

X, H = (1, 16, 16), (6, 4, 4)
PROVENANCE = {
    "model": "digits", "fingerprint": "00ff", "dtype": "float32", "map": "encoder mid_block",
    "wrt": "x", "tap": "mid_block", "seed": 0, "pullback": "0", "torch": "0", "diffusers": "0",
}  # fmt: skip


def frames(count, k, n, dtype=torch.float64):
    """Random orthonormal rows `[count, k, n]`."""
    rows = torch.linalg.qr(torch.randn(count, n, k, dtype=torch.float64)).Q.mT
    return rows.to(dtype).contiguous()


def made(u, v=None, t=500, **changes):
    """A basis whose samples have the rows u `[B, k, m]` and v `[B, k, n]`, random by default."""
    batch, k, _ = u.shape
    if v is None:
        v = frames(batch, k, 256, u.dtype)
    fields = {
        "u": u.unflatten(2, H) if u.shape[2] == 96 else u,
        "s": torch.linspace(2, 1, k, dtype=u.dtype).expand(batch, k).contiguous(),
        "v": v.unflatten(2, X) if v.shape[2] == 256 else v,
        "residual": torch.zeros(batch, k, dtype=u.dtype),
        "angle_bound": torch.full((batch,), 1e-3, dtype=torch.float64),
        "converged": torch.ones(batch, dtype=torch.bool),
        "rank": torch.full((batch,), k),
        "products": torch.full((batch,), 10 * k),
        "stopped": ("converged",) * batch,
        "tol": 2e-3,
    }
    known = {name: changes.pop(name) for name in PROVENANCE.keys() & changes.keys()}
    provenance = {**PROVENANCE, **known, "t": [t] * batch}
    return LocalBasis(**{**fields, **changes}, provenance=provenance)
