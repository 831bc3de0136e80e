"""The options that every function which computes bases takes, said once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import torch

from pullback import krylov
from pullback.operators import JacobianOperator

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """Options of `local_basis` and `basis`, all by keyword.

    Attributes:
        quality: "draft", "standard" (the default) or "tight": 5e-2, 2e-3 or 1e-4 as bound on the
            sine of the largest principal angle to the true space.
        tol: an explicit bound instead.
        init: vectors `[B, p, *x_shape]` to start from, such as the v of a neighbouring timestep.
        seed: seed of the random start; the same seed on the same device gives the same basis.
        max_products: products per sample after which to give up (default 100 times the rank).
        progress: called after every step with a `krylov.Progress`.
        chunk: tangents in one pass, or "auto" (the default) to plan them from the memory budget.
        memory: memory budget of a pass, in bytes.
    """

    quality: str
    tol: float | None
    init: torch.Tensor | None
    seed: int
    max_products: int | None
    progress: Callable[[krylov.Progress], None] | None
    chunk: int | str
    memory: int | None


class StepOptions(TypedDict, total=False):
    """Options of `shoot` and `latent_path`, which hold for every basis on the way.

    Attributes:
        tol: an explicit bound on the sine, in place of the quality's.
        seed: seed of the random starts.
        max_products: products per sample and basis after which to give up (default 100 times the
            rank).
        chunk: tangents in one pass, or "auto" (the default) to plan them from the memory budget.
        memory: memory budget of a pass, in bytes.
    """

    tol: float | None
    seed: int
    max_products: int | None
    chunk: int | str
    memory: int | None


#: Options that `JacobianOperator` takes; the others are the solver's.
OF_PRODUCTS = ("chunk", "memory")


def with_options(function: FunctionT, kind: type = Options) -> FunctionT:
    """Gives a function that ends in `**options: Unpack[kind]` the signature of all of them.

    `help`, notebooks and editors then show each option with its default, which is that of
    `krylov.svd` or `JacobianOperator`.
    """
    known = {
        **inspect.signature(krylov.svd).parameters,
        **{n: inspect.signature(JacobianOperator).parameters[n] for n in OF_PRODUCTS},
    }
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=known[name].default,
            annotation=known[name].annotation,
        )
        for name in kind.__annotations__
    ]
    function.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    return function


def with_step_options(function: FunctionT) -> FunctionT:
    """The same for a function that ends in `**options: Unpack[StepOptions]`."""
    return with_options(function, StepOptions)


def check_options(name: str, options: Options | StepOptions, kind: type = Options) -> None:
    """Raise TypeError for an option that the function `name` does not have."""
    unknown = sorted(set(options) - set(kind.__annotations__))
    if unknown:
        raise TypeError(
            f"{name}() got an unexpected keyword argument {unknown[0]!r}. Its options are: "
            f"{', '.join(kind.__annotations__)}."
        )
