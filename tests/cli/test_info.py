"""`pullback info` and `pullback taps`: as tables and as JSON, for every family."""

import json

import pytest
import torch

import pullback
from pullback import models
from tests.cli.calls import refused
from tests.models import families


def test_info_tells_versions_native_state_and_models(call):
    result = call("info", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["versions"]["torch"] == torch.__version__
    assert "digits" in found["zoo"]
    assert set(found["native"]["usable"]) | set(found["native"]["unusable"]) >= {"cpu"}
    text = call("info").stdout
    assert torch.__version__ in text
    assert "native library" in text


def test_info_of_a_model_lists_its_taps(call, digits):
    found = json.loads(call("info", "digits", "--json").stdout)
    assert found["latent_shape"] == [1, 16, 16]
    assert found["timesteps"] == 1000
    assert found["null_condition"] == {"class_labels": 10}
    paths = [tap["path"] for tap in found["taps"]]
    assert paths == [tap.path for tap in digits.taps()]
    assert found["default_tap"] in paths
    assert found["takes"] == {"class_labels": "needed"}
    assert found["predicts"] == "epsilon"
    tensors = (*digits.network.parameters(), *digits.network.buffers())
    assert found["weights"] == {"unet": sum(tensor.nbytes for tensor in tensors)}
    text = call("info", "digits").stdout
    assert f"{found['weights']['unet'] / 2**20:.1f} MiB (unet " in text
    assert "mid_block  (default)" in text
    assert "96 x 4 x 4" in text
    assert "class_labels = 10" in text


@pytest.mark.parametrize("name", families.TINY)
def test_info_describes_every_family(call, monkeypatch, name):
    model = families.model_of(name)
    monkeypatch.setattr(models, "load", lambda *_args, **_kwargs: model)
    found = json.loads(call("info", name, "--json").stdout)
    assert found["default_tap"] == families.TINY[name].default
    assert [tap["path"] for tap in found["taps"]] == model.blocks()
    assert found["predicts"] == ("flow" if families.TINY[name].flow else "epsilon")
    assert found["max_timestep"] == (1000 if families.TINY[name].flow else 999)
    text = call("info", name).stdout
    assert f"{families.TINY[name].default}  (default)" in text
    if "encoder_hidden_states" in found["takes"]:
        assert found["null_condition"] is None
        assert "none known: give --prompt" in text


def test_info_tells_the_size_of_an_encoded_null_prompt(call, monkeypatch):
    known = families.model_of("UNet2DConditionModel")
    null = {"encoder_hidden_states": torch.zeros(5, 32)}
    model = pullback.LatentModel(known.network, known.schedule.scheduler, null_cond=null)
    monkeypatch.setattr(models, "load", lambda *_args, **_kwargs: model)
    found = json.loads(call("info", "any", "--json").stdout)
    assert found["null_condition"] == {"encoder_hidden_states": {"shape": [5, 32]}}
    assert "encoder_hidden_states 5 x 32" in call("info", "any").stdout


def test_taps_as_a_table_and_as_json(call, digits):
    found = json.loads(call("taps", "digits", "--json").stdout)
    assert found["default"] == "mid_block"
    assert found["taps"] == [
        {"path": tap.path, "shape": list(tap.shape), "share": tap.share} for tap in digits.taps()
    ]
    lines = call("taps", "digits").stdout.splitlines()
    assert len(lines) == 1 + len(found["taps"])
    assert lines[4].split() == ["mid_block", "(default)", "96", "x", "4", "x", "4", "24.5%"]
    refused(call("taps", "letters"), 1, "'letters'", "digits")
