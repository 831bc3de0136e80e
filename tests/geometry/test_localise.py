"""Global directions at single samples, against the formulas written out; and their files."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import pullback
from pullback import GlobalDirections, global_directions, local_basis, mean_metric
from tests.geometry.made import frames, made


def basis(count=3, k=4, seed=0, **changes):
    torch.manual_seed(seed)
    return made(frames(count, k, 96), frames(count, k, 256), **changes)


def test_in_features_it_is_v_u_transposed(recwarn):
    found = global_directions(basis(), "hungarian")
    target = basis(5, 6, seed=1)
    here = found.localise(target)
    mean = found.vectors.flatten(1)
    for sample in range(5):
        u, v = target.u[sample].flatten(1), target.v[sample].flatten(1)
        c = mean @ u.mT
        torch.testing.assert_close(here.retained[:, sample], c.norm(dim=1))
        expected = (c / c.norm(dim=1, keepdim=True)) @ v
        torch.testing.assert_close(here.v[:, sample].flatten(1), expected)
        back = found.localise(target, back="pullback").v[:, sample].flatten(1)
        inverse = (c / target.s[sample]) @ v
        torch.testing.assert_close(back, inverse / inverse.norm(dim=1, keepdim=True))
    assert here.coordinates.shape == (4, 5, 6)
    one = here.direction(2, 1)
    assert one.provenance["source"]["how"] == "global directions, hungarian"
    assert one.provenance["source"]["agreement"] == float(found.agreement[1])


def test_in_latents_it_is_v_v_transposed(recwarn):
    found = global_directions(basis(), "hungarian", space="x")
    target = basis(5, 6, seed=1, rank=torch.tensor([6, 6, 2, 6, 6]), map="another map", tap=None)
    here = found.localise(target)
    mean = found.vectors.flatten(1)
    for sample, rank in enumerate(target.rank.tolist()):
        v = target.v[sample, :rank].flatten(1)
        expected = mean @ v.mT @ v
        torch.testing.assert_close(here.retained[:, sample], expected.norm(dim=1))
        expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(here.v[:, sample].flatten(1), expected)
    assert not here.coordinates[:, 2, 2:].any()
    torch.testing.assert_close(here.coordinates.norm(dim=2), torch.ones(4, 5).double())
    with pytest.raises(ValueError, match="Expected back=\"isometric\", got 'vjp'"):
        found.localise(target, back="vjp")


def test_a_direction_inside_the_basis_is_kept_whole():
    rows = basis()
    for space in ("h", "x"):
        side = rows.u if space == "h" else rows.v
        found = global_directions(rows[[0, 0]], space=space)  # two samples that are one
        here = found.localise(rows[0])
        torch.testing.assert_close(here.retained, torch.ones(4, 1).double())
        there = here.u if space == "h" else here.v
        torch.testing.assert_close(there[:, 0], side[0])


def test_real_samples_are_edited_along_what_is_local_to_them(digits):
    x = digits.sample_latents(4, 900, seed=4)
    bases = local_basis(digits, x, 900, 3, quality="draft")
    for found in (
        global_directions(bases, "hungarian"),
        global_directions(bases, "hungarian", space="x"),
        mean_metric(digits, x, 900, 2, quality="draft"),
    ):
        here = found[:1].localise(bases[:2])
        assert float(here.retained.min()) > 0.3
        sweep = here.edit([0.0, 4.0], steps=3)
        assert sweep.latents.shape[:3] == (2, 1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "11"}, "the fingerprint '00ff' of the directions, got '11'"),
        ({"wrt": "prompt"}, "the wrt 'x' of the directions, got 'prompt'"),
        ({"map": "x0"}, "the map 'encoder mid_block' of the directions, got 'x0'"),
        ({"tap": "up_blocks.0"}, "the tap 'mid_block' of the directions, got 'up_blocks.0'"),
        ({"rank": torch.tensor([4, 0, 4])}, "numerical rank 0 at sample 1"),
    ],
)
def test_targets_that_do_not_fit_are_told_in_what(change, message):
    found = global_directions(basis(), "hungarian")
    with pytest.raises(ValueError, match=message):
        found.localise(basis(**change))


def test_other_targets_that_are_refused():
    found = global_directions(basis(), "hungarian")
    with pytest.raises(ValueError, match=r"u are of shape \[6, 4, 4\] each, got \[80\]"):
        found.localise(made(frames(2, 3, 80)))
    broken = basis()
    broken.v[1, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or Inf"):
        found.localise(broken)
    with pytest.raises(TypeError, match="Expected the target as a LocalBasis, got Tensor"):
        found.localise(broken.v)
    with pytest.raises(ValueError, match="Expected back as one of"):
        found.localise(basis(), back="forth")


@pytest.mark.parametrize("space", ["h", "x"])
def test_samples_that_know_nothing_or_little_of_a_direction(space):
    e, f = torch.eye(96, dtype=torch.float64), torch.eye(256, dtype=torch.float64)
    found = global_directions(made(e[[0, 0], None], f[[0, 0], None]), space=space)
    with pytest.raises(ValueError, match=r"Nothing of direction 0 lies in the .* of sample 1"):
        found.localise(made(e[[0, 5], None], f[[0, 5], None]))
    tilted = [(0.05 * a[0] + a[7]) / (0.05 * a[0] + a[7]).norm() for a in (e, f)]
    target = made(tilted[0][None, None], tilted[1][None, None])
    with pytest.warns(UserWarning, match="keep less than"):
        here = found.localise(target)
    assert float(here.retained[0, 0]) == pytest.approx(0.05, rel=2e-3)


def test_a_target_that_has_not_converged_is_warned_of():
    late = basis(converged=torch.tensor([True, False, True]))
    for space in ("h", "x"):
        found = global_directions(basis(), "hungarian", space=space)
        with pytest.warns(UserWarning, match="1 bases of the target did not converge"):
            found.localise(late)


# -------------------------------------------------------------------------------------- files


@pytest.fixture
def found():
    return global_directions(basis(), "hungarian", space="x")


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


def test_save_and_load_give_the_same_directions(found, tmp_path):
    path = tmp_path / "new" / "directions.safetensors"
    for one in (found, found[1:3], global_directions(basis(), "nearest")):
        one.save(path)
        again = GlobalDirections.load(path)
        assert torch.equal(again.vectors, one.vectors)
        assert torch.equal(again.agreement, one.agreement)
        for name in ("space", "how", "s", "provenance"):
            assert getattr(again, name) == getattr(one, name)
        assert torch.equal(again.direction(0).vector, one.direction(0).vector)
    assert [p.name for p in path.parent.iterdir()] == ["directions.safetensors"]


def test_what_was_read_does_not_follow_the_file(found, tmp_path):
    path = tmp_path / "directions.safetensors"
    found.save(path)
    again = GlobalDirections.load(path)
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(b"\xff" * 64)
    assert torch.equal(again.vectors, found.vectors)
    assert torch.equal(again.agreement, found.agreement)


def test_a_failed_save_leaves_the_old_file(found, tmp_path, monkeypatch):
    path = tmp_path / "directions.safetensors"
    found.save(path)
    before = path.read_bytes()

    def fails(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        found.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["directions.safetensors"]


def test_missing_damaged_and_foreign_files_are_named(found, tmp_path):
    path = tmp_path / "directions.safetensors"
    with pytest.raises(FileNotFoundError, match="No file of global directions"):
        GlobalDirections.load(path)
    found.save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"\x80\x04pickle", b"", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or is no safetensors file"):
            GlobalDirections.load(path)
    basis().save(path)
    with pytest.raises(ValueError, match=r"no global directions: .* 'pullback.LocalBasis/1'"):
        GlobalDirections.load(path)
    torch.save({"vectors": found.vectors}, path)
    with pytest.raises(ValueError, match="damaged or is no safetensors file"):
        GlobalDirections.load(path)


V = (4, 1, 16, 16)
WRONG = [
    ({"vectors": torch.ones(V)}, "expected vectors of norm 1"),
    ({"vectors": torch.ones(V).int()}, "expected vectors in float32 or float64"),
    ({"vectors": torch.full(V, torch.nan)}, "expected finite numbers in vectors"),
    ({"vectors": torch.ones(4)}, r"expected vectors of shape \[D, \*shape\], got \[4\]"),
    ({"vectors": torch.ones(0, 3)}, r"expected vectors of shape \[D, \*shape\], got \[0, 3\]"),
    ({"vectors": None}, "expected the tensors vectors, agreement, got agreement"),
    ({"agreement": torch.ones(3).double()}, r"agreement as float64 of shape \[4\], got .* \[3\]"),
    ({"agreement": torch.ones(4)}, "agreement as float64"),
    ({"agreement": torch.ones(4).double() * 1.1}, "agreement from 0 to 1"),
    ({"agreement": torch.full((4,), torch.nan).double()}, "finite numbers in agreement"),
    ({"s": torch.ones(4).double()}, "expected the tensors vectors, agreement, got .*s"),
    ({"how": '"metric"'}, "expected the tensors vectors, agreement, s, got"),
    ({"how": '"metric"', "s": torch.zeros(4).double()}, "expected s above 0"),
    ({"how": '"mean"'}, "expected how as one of nearest, hungarian, frechet, metric, got 'mean'"),
    ({"how": None}, "expected how as JSON in the header, got None"),
    ({"how": "[" * 100_000}, "expected how as JSON"),
    ({"space": '"y"'}, "expected space as one of h, x, prompt, got 'y'"),
    ({"space": '["x"]'}, "expected space as one of"),
    ({"how": "{}"}, "expected how as one of"),
    ({"provenance": "[]"}, r"expected provenance as a mapping in the header, got \[\]"),
    ({"provenance": "{}"}, "expected model as str in the provenance, got None"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_what_is_wrong_in_a_file_is_named(found, tmp_path, changes, words):
    path = tmp_path / "directions.safetensors"
    found.save(path)
    edited(path, **changes)
    with pytest.raises(ValueError, match=words) as caught:
        GlobalDirections.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged: ")
    assert message.endswith("Copy it again, or find the directions again.")
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("t", True, "expected t as int"),
        ("t", [500], "expected t as int"),
        ("t", -1, "t of 0 or more"),
        ("samples", 1, "two samples or more"),
        ("vector", "w", "expected vector as u or v, got 'w'"),
        ("pool", "time", "expected pool as space or null"),
        ("tap", 3, "expected tap as str, or null outside h"),
        ("fingerprint", None, "expected fingerprint as str"),
    ],
)
def test_a_provenance_of_other_types(found, tmp_path, name, value, words):
    path = tmp_path / "directions.safetensors"
    found.save(path)
    edited(path, provenance=json.dumps({**found.provenance, name: value}))
    with pytest.raises(ValueError, match=words):
        GlobalDirections.load(path)


def test_a_feature_needs_its_tap(tmp_path):
    path = tmp_path / "directions.safetensors"
    global_directions(basis(), "hungarian").save(path)
    known = GlobalDirections.load(path).provenance
    edited(path, provenance=json.dumps({**known, "tap": None}))
    with pytest.raises(ValueError, match="expected tap as str, or null outside h, got None"):
        GlobalDirections.load(path)


def test_they_are_names_of_the_package():
    assert pullback.GlobalDirections is GlobalDirections
    assert {"GlobalDirections", "global_directions"} <= set(dir(pullback))
