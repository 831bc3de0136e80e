"""Garbage is looked for as before, once what takes long is imported."""

import gc
import json
import subprocess
import sys

from pullback import _garbage

PROGRAM = """
import gc, json, sys
sys.path[:0] = {path!r}
before, looked = gc.get_threshold(), []
gc.callbacks.append(lambda phase, info: looked.append(info["generation"]))
{work}
print(json.dumps([gc.isenabled(), gc.get_threshold() == before, gc.get_freeze_count(), looked]))
"""


def told(work):
    program = PROGRAM.format(path=sys.path, work=work)
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return json.loads(found.stdout.splitlines()[-1])


def test_names_are_imported_without_looking_for_garbage():
    enabled, same, frozen, looked = told("import pullback\npullback.LatentModel")
    assert enabled
    assert same
    assert frozen == 0
    assert len(looked) < 200  # 2,200 else
    assert told("gc.disable()\nimport pullback\npullback.krylov")[0] is False


def test_a_program_looks_as_usual_when_its_model_is_there():
    program = "from pullback.cli import main\nsys.argv[1:] = ['taps', 'digits']\n"
    enabled, same, frozen, looked = told(program + "try:\n    main()\nexcept SystemExit:\n    pass")
    assert enabled
    assert same
    assert frozen > 100_000
    assert len(looked) < 200


def test_a_program_that_begins_twice_ends_as_it_began():
    before = gc.get_threshold()
    program = "from pullback import _garbage\n_garbage.loading()\n_garbage.loading()\n"
    assert told(program + "_garbage.loaded()")[1]
    assert not told(program)[1]
    assert gc.get_threshold() == before


def test_nothing_is_frozen_where_nothing_was_loaded():
    before = gc.get_threshold(), gc.get_freeze_count()
    _garbage.loaded()
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
    with _garbage.paused():
        assert not gc.isenabled()
    assert gc.isenabled()
