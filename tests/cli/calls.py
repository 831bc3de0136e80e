"""How the tests call commands, and what an error must look like."""

import json
import re

from safetensors import safe_open

#: Options of `pullback basis` that make it fast.
QUICK = ("--samples", "2", "--rank", "3", "--quality", "draft")

#: Options of `pullback edit` that make it fast.
QUICK_EDIT = ("--seeds", "0", "-t", "100", "--rank", "2", "--strengths", "-4,0,4")

#: Options of `pullback transport`, `path` and `global` that make them fast.
QUICK_TRANSPORT = ("--seeds", "1,2", "-t", "900", "--rank", "3", "--quality", "draft")
QUICK_PATH = ("-t", "900", "--segments", "2", "--rank", "3", "--quality", "draft")
QUICK_GLOBAL = ("--seeds", "0-2", "--rank", "2", "--quality", "draft")


def refused(result, code, *words):
    """An error: its exit code, one paragraph on stderr with these words, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    message = " ".join(result.stderr.replace("│", " ").split())
    for word in words:
        assert word in message
    return message


def edits(folder, name="seed0"):
    """The tensors and the header of a sample's file."""
    with safe_open(folder / f"edits-{name}.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["edits"])
        return {one: file.get_tensor(one) for one in ("x", "latents")}, header


def done(result):
    assert result.exit_code == 0, result.output
    return result


def of_run(inside=""):
    """The files of a finished run of one unit."""
    names = ("plan.json", "units/unit-000000.safetensors", "receipts/unit-000000.json")
    return {inside + name for name in names}


def listed(names):
    """Files as a command lists them: those of a run by their kinds."""
    return {re.sub(r"\b(units|receipts)/.*", r"\1/", str(name)) for name in names}


def snapshot(folder):
    """The bytes of all files of a folder and those below it, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
