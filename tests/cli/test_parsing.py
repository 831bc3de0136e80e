"""Option values: sizes of memory, and lists of numbers."""

import pytest
import typer

from pullback.cli import parsing


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("512 MiB", 512 << 20), ("1.5kib", 1536), ("2GB", 2 * 10**9), ("99", 99)],
)
def test_memory_sizes(text, size):
    assert parsing.parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", (3,)),
        ("0,2, 5", (0, 2, 5)),
        ("0-3", (0, 1, 2, 3)),
        ("7,1-2", (7, 1, 2)),
        ("-4", (-4,)),
    ],
)
def test_lists_of_numbers(text, numbers):
    assert parsing.parse_list(text, "--seeds") == numbers


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "1.5"])
def test_what_is_no_list_of_numbers(text):
    with pytest.raises(typer.BadParameter):
        parsing.parse_list(text, "--seeds")
