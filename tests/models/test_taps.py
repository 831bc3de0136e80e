"""Taps: naming them, reading and writing features, hooks."""

import threading
from importlib import import_module
from pkgutil import iter_modules

import diffusers.models.transformers as transformers
import diffusers.models.unets as unets
import diffusers.models.unets.unet_2d_blocks as blocks
import pytest
import torch
from diffusers.models.attention import JointTransformerBlock as Joint
from torch import nn

from pullback.models.families import BLOCKS
from pullback.models.taps import FEATURE_INDEX, Site, Tap, hooked, pooled, readable


class Pair(nn.Module):
    """A class that no table knows."""


class DownBlock2D(nn.Module):
    """Returns the feature first and what it skips after it."""


class JointTransformerBlock(nn.Module):
    """Returns the text stream first."""


ONE, TWO = torch.ones(2, 3), torch.full((2, 4), 2.0)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("mid_block", Site("mid_block")),
        ("blocks.0:1", Site("blocks.0", 1)),
        ("blocks.0:12", Site("blocks.0", 12)),
        (("blocks.0", 1), Site("blocks.0", 1)),
        (["blocks.0", 0], Site("blocks.0", 0)),
        (("blocks.0", -1), Site("blocks.0", -1)),
        ("odd:name", Site("odd:name")),
        (":1", Site("", 1)),
        ("", Site("")),
        (Tap("blocks.0:1", (3,), 0.5), Site("blocks.0", 1)),
    ],
)
def test_a_tap_has_many_names(name, site):
    assert Site.of(name) == site


@pytest.mark.parametrize("site", [Site("mid_block"), Site("blocks.3", 0), Site("a.b.c", 7)])
def test_a_site_is_read_back_from_its_text(site):
    assert Site.of(str(site)) == site


@pytest.mark.parametrize(
    "name",
    [None, 3, ("a",), ("a", 1, 2), (1, "a"), ("a", 1.0), ("a", True), ("a", "1"), nn.ReLU()],
)
def test_what_names_no_tap(name):
    with pytest.raises(
        TypeError, match=r'module path such as "mid_block", or \(path, index\), got'
    ):
        Site.of(name)


def test_a_tensor_is_the_feature_itself():
    assert Site("a").read(Pair(), ONE, len(ONE)) is ONE
    assert Site("a", 0).read(Pair(), ONE, len(ONE)) is ONE
    assert Site("a").write(Pair(), ONE, TWO) is TWO
    with pytest.raises(TypeError, match=r"'a' returns one tensor, so there is no a:1"):
        Site("a", 1).read(Pair(), ONE, len(ONE))


@pytest.mark.parametrize("kind", [tuple, list])
def test_the_index_picks_from_a_tuple(kind):
    output = kind([ONE, "kept", TWO])
    assert Site("a", 2).read(Pair(), output, len(ONE)) is TWO
    written = Site("a", 2).write(Pair(), output, ONE)
    assert written[0] is ONE
    assert written[1:] == ("kept", ONE)
    assert output[2] is TWO  # the module's own output stays


def test_the_table_knows_blocks_of_diffusers():
    assert Site("a").read(DownBlock2D(), (ONE, (TWO, TWO)), len(ONE)) is ONE
    assert Site("a").read(JointTransformerBlock(), (ONE, TWO), len(ONE)) is TWO
    written = Site("a").write(JointTransformerBlock(), (ONE, TWO), -TWO)
    assert written[0] is ONE
    assert torch.equal(written[1], -TWO)
    # An index that is given goes before the table.
    assert Site("a", 0).read(JointTransformerBlock(), (ONE, TWO), len(ONE)) is ONE


def test_every_class_of_the_table_exists_in_diffusers():
    files = [
        import_module(file.name)
        for kinds in (transformers, unets)
        for file in iter_modules(kinds.__path__, f"{kinds.__name__}.")
    ]
    known = {Joint.__name__, *dir(blocks)}.union(*map(dir, files))
    assert set(FEATURE_INDEX) <= known
    assert set(BLOCKS) <= known


def test_frames_that_the_network_has_as_rows_are_those_of_their_samples():
    rows = torch.arange(12.0).reshape(6, 2)  # three frames of each of two samples
    site = Site("a", merged=True)
    found = site.read(Pair(), rows, 2)
    assert found.shape == (2, 3, 2)
    assert torch.equal(found[1], rows[3:])
    assert torch.equal(site.write(Pair(), rows, -found), -rows)
    assert site.read(Pair(), rows, 6) is rows  # a feature with one row for each
    assert site.write(Pair(), rows, rows) is rows


@pytest.mark.parametrize(
    ("site", "module", "output", "message"),
    [
        (
            Site("a"),
            Pair(),
            (ONE, TWO),
            r"'a' is a Pair, which returns 2 values.*tap=\('a', index\)",
        ),
        (Site("a"), Pair(), {"x": ONE}, r"returns a dict\. Expected a tap that returns a tensor"),
        (Site("a"), Pair(), None, r"returns a NoneType"),
        (Site("a", 2), Pair(), (ONE, TWO), r"no index 2\. Expected 0 to 1"),
        (Site("a", -1), Pair(), (ONE, TWO), r"no index -1\. Expected 0 to 1"),
        (Site("a", 1), Pair(), (ONE, None), r"returns a NoneType at index 1, not a tensor"),
        (Site("a"), JointTransformerBlock(), ONE, r"joined in one tensor.*update diffusers"),
    ],
)
def test_what_cannot_be_read_says_why(site, module, output, message):
    with pytest.raises(TypeError, match=message):
        site.read(module, output, len(ONE))


def test_what_can_be_read_of_an_output():
    assert readable("a", Pair(), ONE) == [(Site("a"), ONE)]
    found = readable("a", Pair(), (ONE, None, TWO))
    assert [str(site) for site, _ in found] == ["a:0", "a:2"]
    assert found[1][1] is TWO
    assert [str(site) for site, _ in readable("a", DownBlock2D(), (ONE, ()))] == ["a"]
    assert readable("a", Pair(), {"x": ONE}) == []


def test_pooling_is_the_mean_over_space():
    images = torch.arange(48.0).reshape(2, 2, 3, 4)
    assert torch.equal(pooled(images), torch.stack([images[:, 0], images[:, 1]], 1).mean((2, 3)))
    assert pooled(images)[0, 0] == 5.5
    tokens = torch.arange(12.0).reshape(1, 3, 4)
    assert torch.equal(pooled(tokens), torch.tensor([[4.0, 5, 6, 7]]))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\] or \[B, S, C\].*got \[2, 3\]"):
        pooled(ONE)


def test_a_hook_sees_and_replaces_outputs_of_its_own_thread_alone():
    module, seen = nn.Identity(), []

    def hook(module, output):
        seen.append(output)
        return output + 1

    def elsewhere():
        found.append(module(ONE))

    found = []
    with hooked(module, hook):
        assert torch.equal(module(ONE), ONE + 1)
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
    assert torch.equal(found[0], ONE)
    assert len(seen) == 1
    assert torch.equal(module(ONE), ONE)
    assert not module._forward_hooks


def test_a_hook_comes_before_or_after_those_that_are_there():
    module, seen = nn.Identity(), []
    mine = module.register_forward_hook(lambda _m, _i, o: 10 * o)
    with hooked(module, lambda _, o: seen.append(float(o)), first=True):
        module(torch.tensor(1.0))
    with hooked(module, lambda _, o: seen.append(float(o))):
        module(torch.tensor(1.0))
    assert seen == [1.0, 10.0]
    mine.remove()


def test_a_hook_goes_when_the_pass_fails():
    module = nn.Linear(5, 2)
    with pytest.raises(RuntimeError), hooked(module, lambda *_: None):
        module(ONE)
    assert not module._forward_hooks
