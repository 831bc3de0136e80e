"""The random numbers of one iteration, all from one seed."""

from __future__ import annotations

import hashlib

import torch


class Draws:
    """Gaussian rows and seeds, different at every call and the same for the same seed.

    Args:
        seed: a whole number.
        attempt: which iteration with this seed; each has numbers of its own.
    """

    def __init__(self, seed: int, attempt: int = 0) -> None:
        self.seed, self._attempt = seed, attempt
        self._count = 0

    def following(self) -> Draws:
        """The numbers of the next iteration."""
        return Draws(self.seed, self._attempt + 1)

    def next_seed(self) -> int:
        """A seed for the random rows of the kernels."""
        self._count += 1
        return self._mixed(self._count)

    def rows(self, count: int, columns: int) -> torch.Tensor:
        """Gaussian numbers [count, columns], float32 on the CPU."""
        return self._gaussian(count, columns, self.next_seed())

    def mixture(self, count: int, columns: int) -> torch.Tensor:
        """Gaussian numbers [count, columns] that do not depend on what was drawn before."""
        return self._gaussian(count, columns, self._mixed(0))

    def probe(self, columns: int) -> torch.Tensor:
        """One Gaussian row [columns], the same at every call and independent of all others."""
        return self._gaussian(1, columns, self._mixed(-1))[0]

    def signs(self, count: int, columns: int) -> torch.Tensor:
        """±1 [count, columns], the same at every call and independent of all others."""
        return torch.where(self._gaussian(count, columns, self._mixed(-2)) < 0, -1.0, 1.0)

    def _mixed(self, draw: int) -> int:
        # Hashed, because torch's generator on the CPU takes the lowest 32 bits of a seed only.
        text = f"{self.seed} {self._attempt} {draw}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

    def _gaussian(self, rows: int, columns: int, seed: int) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(rows, columns, generator=generator, dtype=torch.float32, device="cpu")
