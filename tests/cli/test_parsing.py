"""Option values: sizes of memory, lists of numbers, and keyword arguments of a call."""

import pytest
import typer
from PIL import Image

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


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("height=64", 64),
        ("shift=-3", -3),
        ("strength=0.8", 0.8),
        ("scale=1e-3", 1e-3),
        ("scale=.5", 0.5),
        ("tiled=true", True),
        ("tiled=False", False),
        ("negative_prompt=a = b", "a = b"),
        ("negative_prompt=", ""),
        ("name=inf", "inf"),
        ("name=v1.5", "v1.5"),
        ("name=parsing", "parsing"),
    ],
)
def test_keyword_arguments_of_a_call(pair, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parsing").write_text("a file that is no image, and is not named as one")
    found = parsing.parse_call([pair])
    assert found == {pair.partition("=")[0]: value}
    assert type(next(iter(found.values()))) is type(value)


def test_several_of_them_or_none():
    assert parsing.parse_call(["b=1", "a=x"]) == {"b": 1, "a": "x"}
    assert parsing.parse_call([]) == parsing.parse_call(None) == {}


@pytest.mark.parametrize(("name", "mode"), [("edges.png", "RGB"), ("mask", "L"), ("p.gif", "P")])
def test_the_path_of_an_image_is_opened(tmp_path, monkeypatch, name, mode):
    image = Image.new(mode, (5, 3), 0)
    image.putpixel((4, 2), 1)
    image.save(tmp_path / name, format="GIF" if name.endswith("gif") else "PNG")
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        found = parsing.parse_call([f"image={path}"])["image"]
        assert (found.mode, found.size) == ("RGB", (5, 3))
        with Image.open(path) as read:
            assert found.tobytes() == read.convert("RGB").tobytes()


def test_a_photograph_is_turned_as_its_camera_was(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6  # a quarter of a turn
    Image.new("RGB", (5, 3)).save(tmp_path / "photo.jpg", exif=tags)
    assert parsing.parse_call([f"image={tmp_path / 'photo.jpg'}"])["image"].size == (3, 5)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["image"], "expected name=value such as height=64, got 'image'"),
        (["=3"], "expected name=value"),
        (["a b=3"], "expected name=value"),
        (["a=1", "a=2"], "expected a once, got it again: 'a=2'"),
        (["prompt=a cat"], "--prompt"),
        (["image=missing.png"], "missing.png cannot be read: No such file"),
        (["image=broken.png"], "broken.png is no image that can be read"),
        (["image=cut.png"], "cut.png cannot be read: image file is truncated"),
    ],
)
def test_what_is_no_keyword_argument_of_a_call(pairs, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.effect_noise((64, 64), 50).save("cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1000])
    with pytest.raises(typer.BadParameter, match=words) as error:
        parsing.parse_call(pairs)
    assert error.value.param_hint == "--call"
