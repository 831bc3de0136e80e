"""The options of bases: said once, and seen everywhere."""

import inspect

import pytest

import pullback
from pullback import krylov
from pullback.geometry import Options, StepOptions
from pullback.operators import JacobianOperator


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (pullback.basis, Options),
        (pullback.local_basis, Options),
        (pullback.shoot, StepOptions),
        (pullback.latent_path, StepOptions),
    ],
)
def test_the_signature_shows_every_option_with_its_default(function, kind):
    shown = inspect.signature(function).parameters
    solver = inspect.signature(krylov.svd).parameters
    products = inspect.signature(JacobianOperator).parameters
    for name in kind.__annotations__:
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        source = products if name in ("chunk", "memory") else solver
        assert shown[name].default == source[name].default
        assert f"{name}: " in kind.__doc__


def test_every_option_of_the_solver_is_there_but_the_rows_of_a_block():
    solver = inspect.signature(krylov.svd).parameters
    options = {name for name, p in solver.items() if p.kind is p.KEYWORD_ONLY}
    assert options - set(Options.__annotations__) == {"block"}
    along = {"quality", "progress"}  # arguments of their own; where each basis starts is not asked
    assert set(Options.__annotations__) - set(StepOptions.__annotations__) == along | {"init"}


def test_an_option_that_does_not_exist_is_named_with_those_that_do(digits):
    x = digits.sample_latents(1, 500)
    with pytest.raises(TypeError, match=r"local_basis\(\) got .* 'qualty'.*quality, tol"):
        pullback.local_basis(digits, x, 500, 2, qualty="draft")
    with pytest.raises(TypeError, match=r"basis\(\) got .* 'block'"):
        pullback.basis(pullback.maps.encoder(digits), x, 500, 2, block=3)
