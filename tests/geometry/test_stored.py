"""Basis files that are not what they say: refused, with the file and what is wrong."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pullback import LocalBasis, local_basis


@pytest.fixture(scope="module")
def small(digits):
    return local_basis(digits, digits.sample_latents(2, 500), 500, 3, quality="draft")


def edited(path, **changes):
    """Rewrite a file with other tensors or header entries; None takes one away."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in changes.items():
        into = tensors if isinstance(value, torch.Tensor) or name in tensors else header
        into[name] = value
        if value is None:
            del into[name]
    save_file(tensors, path, header)


def nan(shape):
    return torch.full(shape, torch.nan)


U, V = (2, 3, 96, 4, 4), (2, 3, 1, 16, 16)
WRONG = [
    ({"s": torch.ones(2, 3, dtype=torch.int32)}, "expected s in torch.float32, got torch.int32"),
    ({"s": torch.ones(6)}, r"expected s of shape \[B, k\], got \[6\]"),
    ({"s": torch.ones(2, 0)}, r"expected s of shape \[B, k\], got \[2, 0\]"),
    ({"s": torch.ones(2, 4)}, r"expected u as 4 directions of each of the 2 samples"),
    ({"s": -torch.ones(2, 3)}, "expected numbers of 0 or more in s"),
    ({"s": nan((2, 3))}, "expected finite numbers in s"),
    ({"u": nan(U)}, "expected finite numbers in u"),
    ({"u": torch.ones(2, 3)}, r"expected u .* \[2, 3, \.\.\.\], got shape \[2, 3\]"),
    ({"u": torch.ones(2, 3, 2)}, "expected u as 3 directions"),
    ({"v": torch.ones(V).double()}, "expected u in torch.float64, got torch.float32"),
    ({"v": torch.ones(V).int()}, "expected v in a floating dtype"),
    ({"v": torch.ones(1, 3, 1, 16, 16)}, "expected v as 3 directions of each of the 2"),
    ({"v": torch.full(V, torch.inf)}, "expected finite numbers in v"),
    ({"residual": torch.ones(3, 2)}, r"expected residual of shape \[2, 3\], got \[3, 2\]"),
    ({"angle_bound": nan((2,)).double()}, "expected numbers of 0 or more in angle_bound"),
    ({"angle_bound": torch.ones(2)}, "expected angle_bound in torch.float64"),
    ({"converged": torch.ones(2)}, "expected converged in torch.bool"),
    ({"converged": torch.ones(3) > 0}, r"expected converged of shape \[2\], got \[3\]"),
    ({"rank": torch.tensor([3, 4])}, "expected ranks up to 3"),
    ({"products": torch.tensor([-1, 4])}, "expected numbers of 0 or more in products"),
    ({"products": None}, "expected the tensors u, s, v, .* got"),
    ({"more": torch.ones(1)}, "expected the tensors u, s, v, .*more"),
    ({"stopped": None}, "expected stopped as JSON in the header, got None"),
    ({"stopped": '["converged"]'}, "expected stopped as 2 words"),
    ({"stopped": "[1, 2]"}, "expected stopped as 2 words"),
    ({"stopped": '"ab"'}, "expected stopped as 2 words"),
    ({"stopped": "{"}, "expected stopped as JSON"),
    ({"tol": "NaN"}, "expected tol between 0 and 1"),
    ({"tol": "null"}, "expected tol between 0 and 1"),
    ({"tol": "0.05x"}, "expected tol as JSON"),
    ({"provenance": "null"}, "expected provenance as a mapping in the header, got None"),
    ({"provenance": "[]"}, r"expected provenance as a mapping in the header, got \[\]"),
    ({"provenance": None}, "expected provenance as JSON"),
    ({"provenance": "[" * 100_000}, "expected provenance as JSON"),
    ({"provenance": "{}"}, "expected model as str in the provenance, got None"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_what_is_wrong_is_named(small, tmp_path, changes, words):
    path = tmp_path / "basis.safetensors"
    small.save(path)
    edited(path, **changes)
    with pytest.raises(ValueError, match=words) as caught:
        LocalBasis.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged: ")
    assert message.endswith("Copy it again, or compute the basis again.")
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("t", [500], "expected t as 2 timesteps"),
        ("t", 500, "expected t as list"),
        ("t", [500, "500"], "expected t as 2 timesteps"),
        ("seed", True, "expected seed as int"),
        ("wrt", None, "expected wrt as str"),
        ("tap", 3, "expected tap as str or null"),
    ],
)
def test_a_provenance_of_other_types(small, tmp_path, name, value, words):
    path = tmp_path / "basis.safetensors"
    small.save(path)
    edited(path, provenance=json.dumps({**small.provenance, name: value}))
    with pytest.raises(ValueError, match=words):
        LocalBasis.load(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_converted_basis_and_an_infinite_bound_can_be_read(small, tmp_path, dtype):
    path = tmp_path / "basis.safetensors"
    small[1].to(dtype).save(path)
    edited(path, angle_bound=torch.full((1,), torch.inf, dtype=torch.float64))
    found = LocalBasis.load(path)
    assert torch.equal(found.v, small.v[1:].to(dtype))
    assert found.stopped == small.stopped[1:]


def test_a_device_is_not_replaced(small):
    # A terminal of the test's own, whose folder takes no files: never a device that others need.
    path = os.ttyname(os.openpty()[1])
    with pytest.raises(FileExistsError, match=rf"{path} is a device.*choose another path"):
        small.save(path)
