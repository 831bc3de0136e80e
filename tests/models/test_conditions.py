"""Conditions: what is accepted, what it becomes, and what is told of what is not."""

import numpy as np
import pytest
import torch

from pullback.models.conditions import checked
from pullback.models.families import Argument, flat, nested
from tests.models import families

CPU = torch.device("cpu")
KNOWN = {
    "words": Argument(),
    "mask": Argument(needed=False),
    "sizes.pooled": Argument(),
    "sizes.ids": Argument(needed=False),
}
LABELS = {"class_labels": Argument(classes=4)}
WORDS, POOLED = torch.randn(3, 2, 5), torch.randn(3, 6)


def check(cond, count=3, arguments=KNOWN):
    return checked(cond, count, arguments, CPU, "it")


def test_nested_and_flat_conditions_are_the_same():
    by_mapping = check({"words": WORDS, "sizes": {"pooled": POOLED}})
    by_name = check({"words": WORDS, "sizes.pooled": POOLED})
    assert list(by_mapping) == list(by_name) == ["words", "sizes.pooled"]
    for found in (by_mapping, by_name):
        assert torch.equal(found["words"], WORDS)
        assert torch.equal(found["sizes.pooled"], POOLED)
    assert nested(by_name).keys() == {"words", "sizes"}
    assert flat(nested(by_name)).keys() == by_name.keys()


def test_one_row_stands_for_all():
    found = check({"words": WORDS[:1], "sizes.pooled": POOLED})
    assert found["words"].shape == (3, 2, 5)
    assert torch.equal(found["words"], WORDS[:1].repeat(3, 1, 1))
    assert torch.equal(found["sizes.pooled"], POOLED)


def test_a_condition_is_a_copy():
    words = WORDS.clone()
    found = check({"words": words, "sizes.pooled": POOLED})
    words.zero_()
    assert torch.equal(found["words"], WORDS)


def test_entries_that_are_none_are_left_out():
    found = check(
        {"words": WORDS, "mask": None, "sizes": {"pooled": POOLED, "ids": None}, "other": None}
    )
    assert list(found) == ["words", "sizes.pooled"]
    with pytest.raises(ValueError, match=r"Expected a condition with \['words'\] for it, got"):
        check({"words": None, "sizes.pooled": POOLED})


def test_arrays_and_lists_become_tensors():
    found = check({"words": np.zeros((3, 2, 5)), "sizes.pooled": [[1.0, 2.0]]})
    assert found["words"].dtype == torch.float64
    assert torch.equal(found["sizes.pooled"], torch.tensor([[1.0, 2.0]] * 3))


def test_unknown_names_are_told_with_the_known_ones():
    for cond, name in (
        ({"word": WORDS}, "word"),
        ({"words": WORDS, "sizes": {"pool": POOLED}}, r"sizes\.pool"),
        ({"words": WORDS, "prompt": "a cat"}, "prompt"),
    ):
        with pytest.raises(ValueError, match=rf"\['mask', 'sizes.ids', .*for it, got '{name}'"):
            check(cond)
    with pytest.raises(ValueError, match="with the names none for it, got 'words'"):
        check({"words": WORDS}, arguments={})


def test_missing_names_are_told():
    with pytest.raises(ValueError, match=r"with \['sizes.pooled'\] for it, got \['words'\]"):
        check({"words": WORDS})
    with pytest.raises(ValueError, match=r"\['sizes.pooled', 'words'\] for it, got an empty map"):
        check({})


def test_anything_goes_where_the_arguments_are_not_known():
    found = check({"anything": WORDS, "a": {"b": POOLED}}, arguments=None)
    assert list(found) == ["anything", "a.b"]
    assert check({}, arguments=None) == {}


@pytest.mark.parametrize("rows", [2, 4, 0])
def test_another_number_of_rows(rows):
    with pytest.raises(ValueError, match=r"cond\['words'\] with 3 rows.*\(or 1 for all\), got"):
        check({"words": torch.zeros(rows, 2, 5), "sizes.pooled": POOLED})


def test_a_number_alone_has_no_rows():
    with pytest.raises(ValueError, match=r"cond\['words'\] with 3 rows.*got shape \(\)"):
        check({"words": 3.5, "sizes.pooled": POOLED})


@pytest.mark.parametrize("cond", [WORDS, ["a"], "a cat", 3])
def test_a_condition_is_a_mapping(cond):
    with pytest.raises(TypeError, match=r"cond as a mapping.*model\.encode\(prompt="):
        check(cond)


@pytest.mark.parametrize("value", ["a cat", ["a", "cat"], object(), [[1.0], [1.0, 2.0]]])
def test_what_is_no_tensor_is_told_by_name(value):
    with pytest.raises(TypeError, match=r"Expected cond\['words'\] as a tensor, batch first, got"):
        check({"words": value, "sizes.pooled": POOLED})


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels(dtype):
    labels = torch.tensor([0, 3, 1], dtype=dtype)
    assert torch.equal(check({"class_labels": labels}, arguments=LABELS)["class_labels"], labels)
    assert check({"class_labels": [2]}, arguments=LABELS)["class_labels"].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 4], [0, -1, 1], [0.0, 1.0, 2.0], [True, False, True], [[0], [1], [2]]],
)
def test_labels_that_do_not_exist(labels):
    with pytest.raises(
        ValueError, match=r"class labels as whole numbers \[3\] between 0 and 3, got"
    ):
        check({"class_labels": torch.tensor(labels)}, arguments=LABELS)


def test_embeddings_are_taken_in_the_networks_dtype():
    model = families.model_of("UNet2DConditionModel", dtype=torch.float64)
    cond = model.conditions.of(families.text(2), 2)
    assert cond["encoder_hidden_states"].dtype == torch.float64
    labels = families.model_of("DiTTransformer2DModel", dtype=torch.float64).conditions.of(None, 2)
    assert labels["class_labels"].dtype == torch.int64
