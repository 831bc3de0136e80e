"""Folders for the hub, their model cards, and what is handed to the hub's client."""

import re
import types
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import RepositoryNotFoundError

from pullback import Direction
from pullback._version import __version__
from pullback.directions import hub
from tests.directions.made import PROVENANCE, drawn, same

PNG = b"\x89PNG\r\n\x1a\n and so on"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    monkeypatch.setattr(hub, "HfApi", refuse)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "drawn here.png"
    path.write_bytes(PNG)
    return path


class FakeApi:
    """Takes what would be uploaded."""

    def __init__(self, **settings):
        self.calls = [("made", settings)]
        self.files = {}

    def __call__(self, **settings):
        self.__init__(**settings)
        return self

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        owned = repo_id if "/" in repo_id else f"me/{repo_id}"
        return types.SimpleNamespace(repo_id=owned)

    def upload_folder(self, *, folder_path, **options):
        self.calls.append(("upload_folder", options))
        self.folder = Path(folder_path)
        self.files = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        url = f"https://huggingface.co/{options['repo_id']}/commit/abc"
        return types.SimpleNamespace(commit_url=url)


@pytest.fixture
def api(monkeypatch):
    fake = FakeApi()
    monkeypatch.setattr(hub, "HfApi", fake)
    return fake


def test_a_folder_is_read_back(tmp_path, picture):
    found = drawn("h")
    folder = tmp_path / "a" / "folder"
    found.save_pretrained(folder, pictures={"strengths.png": picture, "b_2.jpg": str(picture)})
    names = {path.name for path in folder.iterdir()}
    assert names == {"direction.safetensors", "README.md", "strengths.png", "b_2.jpg"}
    assert (folder / "strengths.png").read_bytes() == PNG
    for source in (folder, str(folder), folder / "direction.safetensors"):
        assert same(Direction.from_pretrained(source), found)
    drawn("x").save_pretrained(folder)
    assert Direction.from_pretrained(folder).space == "x"


def test_a_folder_of_the_home_and_of_a_name_like_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    drawn().save_pretrained("~/owner/name")
    for source in ("~/owner/name", "owner/name"):
        assert Direction.from_pretrained(source).name == "smile"


def card_of(folder):
    return ModelCard((folder / "README.md").read_text("utf-8"))


def test_the_card_tells_the_hub_and_people(tmp_path, picture):
    provenance = {**PROVENANCE, "model": "owner/diffuser"}
    drawn("h", provenance=provenance, name="wide_smile").save_pretrained(
        tmp_path / "f", pictures={"a_b.png": picture}
    )
    card = card_of(tmp_path / "f")
    assert card.data.library_name == "pullback"
    assert set(card.data.tags) >= {"pullback", "latent-direction"}
    assert card.data.base_model == "owner/diffuser"
    assert "# wide\\_smile\n" in card.text
    assert "](a_b.png)" in card.text
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", card.text, re.MULTILINE))
    assert rows["space"] == "h"
    assert rows["tap"] == "mid\\_block"
    assert rows["shape"] == "\\[96, 4, 4\\]"
    assert rows["applied from, to \\(training units\\)"] == "\\[800, 300\\]"
    assert rows["fingerprint"] == "00ff"
    assert rows["pool"] == "—"


def test_the_code_of_a_card_runs(tmp_path, monkeypatch):
    found = drawn()
    found.save_pretrained(tmp_path / "path/of/this/folder")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", card_of(Path("path/of/this/folder")).text, re.S)[1]
    assert len([line for line in code.splitlines() if line]) == 3
    names = {}
    exec(code, names)
    assert torch.equal(names["change"], found.displacement(1.0))


@pytest.mark.parametrize(
    "model", [None, "digits", "/home/me/model", "a/b/c", "../model", "a b/c", "owner/here"]
)
def test_a_base_model_is_a_hub_id_only(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/here").mkdir(parents=True)  # a folder of two parts, and no hub id
    drawn(provenance={} if model is None else {"model": model}).save_pretrained("f")
    assert card_of(Path("f")).data.base_model is None


def test_a_card_shows_strange_texts_and_does_nothing_else(tmp_path):
    wild = "|`<b>*x*</b>\n---\n# ![a](http://b.c)`" + "long " * 100
    drawn(name="</h1>|[a](b)", provenance={"model": wild, "<i>": [wild]}).save_pretrained(tmp_path)
    card = card_of(tmp_path)
    assert card.data.to_dict().keys() == {"library_name", "tags"}
    body = re.sub(r"```.*?```|`direction.check_fits.model.`", "", card.text, flags=re.DOTALL)
    assert not re.search(r"[<`\[*!]|http:", re.sub(r"\\.", "", body))
    table = [line for line in card.text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table)
    assert all(len(line) < 700 for line in table)
    assert re.findall(r"^#+(?= )", card.text, re.MULTILINE) == ["#", "##", "##", "##"]


@pytest.mark.parametrize(
    "name",
    ["README.md", "direction.safetensors", "a/b.png", "../a.png", ".png", "a.svg", "a b.png",
     "ü.png", "a).png", "", 3, "a.png\n"],
)  # fmt: skip
def test_a_picture_has_a_plain_name(tmp_path, picture, name):
    with pytest.raises(ValueError, match="Expected a picture's name"):
        drawn().save_pretrained(tmp_path / "f", pictures={name: picture})
    assert not (tmp_path / "f").exists()


def test_a_picture_that_does_not_exist(tmp_path, picture):
    with pytest.raises(FileNotFoundError, match=r"No picture at .*none\.png, which b\.png"):
        drawn().save_pretrained(
            tmp_path / "f", pictures={"a.png": picture, "b.png": tmp_path / "none.png"}
        )
    assert not (tmp_path / "f").exists()


def test_a_failed_write_leaves_the_old_folder(tmp_path, monkeypatch):
    drawn().save_pretrained(tmp_path / "f")
    before = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}

    def fails(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        drawn("h").save_pretrained(tmp_path / "f")
    assert {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()} == before


def test_a_hub_id_is_fetched_by_its_one_file(tmp_path, monkeypatch):
    found, asked = drawn(), []
    found.save(tmp_path / "cached.safetensors")

    def fetch(*args, **kwargs):
        asked.append((args, kwargs))
        return str(tmp_path / "cached.safetensors")

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    monkeypatch.chdir(tmp_path)
    assert same(Direction.from_pretrained("owner/smile"), found)
    assert same(Direction.from_pretrained("owner/smile", revision="v2"), found)
    library = {"library_name": "pullback", "library_version": __version__}
    assert asked == [
        (("owner/smile", "direction.safetensors"), {"revision": None, **library}),
        (("owner/smile", "direction.safetensors"), {"revision": "v2", **library}),
    ]


def test_what_cannot_be_fetched_says_why(monkeypatch):
    def fails(*_args, **_kwargs):
        raise RepositoryNotFoundError("404 Client Error\nmore of it", response=_response())

    monkeypatch.setattr(hub, "hf_hub_download", fails)
    with pytest.raises(OSError, match=r"'owner/none' could not be fetched .*404 Client Error\. Ch"):
        Direction.from_pretrained("owner/none")


def _response():
    """Enough of an answer for the errors of the client, whatever library it asks with."""
    return types.SimpleNamespace(headers={}, request=None, status_code=404, text="")


@pytest.mark.parametrize(
    "source", ["none", "./a/b", "/a/b", "~/none", "a/b/c", "a b/c", Path("owner/name"), "a//b"]
)
def test_what_is_nowhere(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Expected a direction file, a folder"):
        Direction.from_pretrained(source)


def test_a_folder_without_a_direction_and_a_revision_of_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No direction file at .*direction\.safetensors"):
        Direction.from_pretrained(tmp_path)
    drawn().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"revision='main'.*no revisions\. Leave revision out"):
        Direction.from_pretrained(tmp_path, revision="main")


def test_push_makes_the_repository_and_uploads_the_folder(api, picture, tmp_path):
    found = drawn()
    address = found.push_to_hub(
        "owner/smile", private=True, token="a-token", pictures={"a.png": picture}
    )
    assert address == "https://huggingface.co/owner/smile/commit/abc"
    assert api.calls == [
        ("made", {"token": "a-token", "library_name": "pullback", "library_version": __version__}),
        ("create_repo", {"repo_id": "owner/smile", "private": True, "exist_ok": True}),
        (
            "upload_folder",
            {"repo_id": "owner/smile", "commit_message": "Upload the direction smile"},
        ),
    ]
    assert set(api.files) == {"direction.safetensors", "README.md", "a.png"}
    assert api.files["a.png"] == PNG
    assert not api.folder.exists()
    again = tmp_path / "again.safetensors"
    again.write_bytes(api.files["direction.safetensors"])
    assert same(Direction.load(again), found)
    everything = b"".join(api.files.values())
    assert b"a-token" not in everything
    assert b'from_pretrained("owner/smile")' in api.files["README.md"]


def test_the_card_has_the_owner_where_only_the_name_was_given(api):
    assert drawn(name="").push_to_hub("smile").endswith("me/smile/commit/abc")
    assert b'from_pretrained("me/smile")' in api.files["README.md"]
    assert api.calls[1][1]["private"] is None
    assert api.calls[2][1] == {"repo_id": "me/smile", "commit_message": "Upload the direction"}


@pytest.mark.parametrize("step", ["create_repo", "upload_folder"])
def test_what_cannot_be_uploaded_says_why(api, monkeypatch, step):
    def fails(*_args, **_kwargs):
        raise RuntimeError("401 Unauthorized\nmore of it")

    monkeypatch.setattr(api, step, fails, raising=False)
    with pytest.raises(OSError, match=r"not be uploaded to 'owner/smile': 401 Unauthorized\. Chec"):
        drawn().push_to_hub("owner/smile")


@pytest.mark.parametrize("repo_id", ["a/b/c", "", "a b/c", "../x", "a--b/c", None, 3])
def test_what_is_no_hub_id_is_refused_before_the_hub_is_asked(repo_id):
    with pytest.raises(ValueError, match="Expected a hub id such as owner/name"):
        drawn().push_to_hub(repo_id)


def test_wrong_pictures_are_refused_before_the_hub_is_asked(picture):
    with pytest.raises(ValueError, match="Expected a picture's name"):
        drawn().push_to_hub("owner/smile", pictures={"a/b.png": picture})
