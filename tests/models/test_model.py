"""LatentModel, its taps and conditions, and loading from everywhere."""

import diffusers
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import pullback
from pullback import LatentModel, maps
from pullback.models.taps import Site


def tiny_network(**changes):
    """An untrained U-Net of the smallest size, in evaluation mode."""
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    }
    return UNet2DModel(**settings | changes).eval()


@pytest.fixture
def scheduler():
    return DDPMScheduler(num_train_timesteps=100)


def test_shapes_and_schedule(scheduler):
    model = LatentModel(tiny_network(sample_size=(8, 12)), scheduler)
    assert model.latent_shape == (3, 8, 12)
    assert model.schedule.num_timesteps == 100
    assert model.default_tap == "mid_block"
    assert model.conditions.null == {}
    assert "3 x 8 x 12" in repr(model)


def test_taps_are_what_a_forward_pass_shows(digits):
    taps = digits.taps()
    assert [tap.path for tap in taps] == [
        *(f"down_blocks.{i}" for i in range(3)),
        "mid_block",
        *(f"up_blocks.{i}" for i in range(3)),
    ]
    assert [tap.share for tap in taps] == sorted(tap.share for tap in taps)
    assert 0 < taps[0].share < taps[-1].share <= 1
    x = digits.sample_latents(1, 500)
    for tap in taps:
        assert "x" in str(tap)
        assert tuple(maps.encoder(digits, tap.path).at(x, 500).value().shape[1:]) == tap.shape


def test_the_encoder_equals_a_hook_on_a_whole_forward_pass_and_stops_at_its_tap(digits):
    x, t = digits.sample_latents(2, 300), torch.tensor([300, 300])
    cond = digits.conditions.of(None, 2)
    seen, later = [], []
    hooks = [
        digits.network.mid_block.register_forward_hook(lambda _m, _i, o: seen.append(o)),
        digits.network.up_blocks[0].register_forward_hook(lambda *_: later.append(1)),
    ]
    with torch.no_grad():
        digits.network(x, t, **cond)
        later.clear()
        value = maps.encoder(digits).bind(x, t, cond).value()
    for hook in hooks:
        hook.remove()
    assert torch.equal(value, seen[0])
    assert not later


def test_a_module_that_never_runs_is_named(digits):
    x = torch.randn(1, 1, 16, 16)
    assert maps.encoder(digits, "class_embedding").at(x, 5).value().shape[0] == 1
    for never in (maps.encoder(digits, "down_blocks"), maps.decoder(digits, "down_blocks")):
        with pytest.raises(ValueError, match="without reaching 'down_blocks'"):
            never.at(x, 5).value()


def test_an_unknown_block_with_several_outputs_is_not_guessed():
    class Strange(torch.nn.Module):
        pass

    output = (torch.zeros(1), torch.ones(1))
    with pytest.raises(TypeError, match=r"'blocks\.0' is a Strange, which returns 2 values.*index"):
        Site("blocks.0").read(Strange(), output, 1)
    assert Site("blocks.0", 1).read(Strange(), output, 1) is output[1]


def test_null_condition_expands_and_is_required_where_unknown(digits, scheduler):
    assert digits.conditions.of(None, 3)["class_labels"].tolist() == [10, 10, 10]
    fours = digits.conditions.of({"class_labels": torch.tensor([4])}, 2)
    assert fours["class_labels"].tolist() == [4, 4]
    model = LatentModel(tiny_network(num_class_embeds=5), scheduler, name="five")
    with pytest.raises(ValueError, match="five is conditional on a class"):
        model.conditions.of(None, 2)
    assert len(model.taps()) == 5
    named = LatentModel(model.network, scheduler, null_cond={"class_labels": torch.tensor(4)})
    assert named.conditions.of(None, 2)["class_labels"].tolist() == [4, 4]


def test_learned_variance_is_cut_off(scheduler):
    model = LatentModel(tiny_network(out_channels=6), scheduler)
    assert model.predict(torch.randn(2, 3, 8, 8), 5, {}).shape == (2, 3, 8, 8)


def test_fingerprint_tells_networks_apart(scheduler):
    first, same = (LatentModel(tiny_network(), scheduler) for _ in range(2))
    assert first.fingerprint == same.fingerprint
    with torch.no_grad():
        same.network.conv_in.weight[0, 0, 0, 0] += 1
    assert first.fingerprint != same.fingerprint


def test_what_cannot_be_called_is_refused(scheduler):
    with pytest.raises(TypeError, match=r"callable f\(x, t, \*\*cond\), got str"):
        LatentModel("digits", scheduler)


def test_another_network_must_say_how_large_its_latents_are(scheduler):
    network = torch.nn.Linear(2, 2).eval()
    with pytest.raises(ValueError, match=r"Pass latent_shape=\(C, H, W\)"):
        LatentModel(network, scheduler)
    model = LatentModel(network, scheduler, latent_shape=(1, 2, 2))
    assert model.latent_shape == (1, 2, 2)
    with pytest.raises(ValueError, match=r"this Linear.*Say it: tap=path"):
        _ = model.default_tap


def test_other_schedulers_are_refused():
    with pytest.raises(TypeError, match="Expected a diffusers scheduler, got int"):
        LatentModel(tiny_network(), 5)


def test_every_source_gives_the_same_model(tmp_path, scheduler):
    network = tiny_network()
    pipeline = DDPMPipeline(network, scheduler)
    pipeline.save_pretrained(tmp_path / "pipeline")
    network.save_pretrained(tmp_path / "network")
    models = [
        pullback.load(pipeline),
        pullback.load(network, scheduler=scheduler),
        pullback.load(tmp_path / "pipeline"),
        pullback.load(str(tmp_path / "pipeline")),
        pullback.load(tmp_path / "network", scheduler=scheduler),
    ]
    assert len({model.fingerprint for model in models}) == 1
    assert pullback.load(models[0]) is models[0]


def test_dtype_and_device(tmp_path):
    model = pullback.load("digits", dtype=torch.float64, device="cpu")
    assert model.dtype == torch.float64
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"could not be put on device 'cuda'.*cpu"):
            pullback.load("digits", device="cuda")
    with pytest.raises(ValueError, match="device"):
        pullback.load("digits", device="abacus")


def test_pickled_weights_are_refused(tmp_path):
    tiny_network().save_pretrained(tmp_path / "model", safe_serialization=False)
    assert list((tmp_path / "model").glob("*.bin"))
    with pytest.raises(ValueError, match=r"pickled weights only .*\.bin.*safe_serialization=True"):
        pullback.load(tmp_path / "model", scheduler=DDPMScheduler())


def test_damaged_weights_are_named(tmp_path):
    tiny_network().save_pretrained(tmp_path / "model")
    weights = next((tmp_path / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="could not be read as a diffusers model"):
        pullback.load(tmp_path / "model", scheduler=DDPMScheduler())


def test_a_hub_id_without_network_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"hub model 'google/none' could not be fetched"):
        pullback.load("google/none")


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"zoo's names \(digits\)"):
        pullback.load("digitz")
    with pytest.raises(FileNotFoundError, match="no such folder exists"):
        pullback.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        pullback.load(tmp_path)
    with pytest.raises(TypeError, match="got int"):
        pullback.load(5)
    with pytest.raises(ValueError, match="Pass scheduler="):
        pullback.load(tiny_network())


def test_a_network_in_training_mode_is_refused(scheduler):
    with pytest.raises(ValueError, match=r"network.eval\(\)"):
        LatentModel(tiny_network().train(), scheduler)


def test_loading_leaves_the_settings_of_diffusers_alone():
    logging = diffusers.utils.logging
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    pullback.load("digits")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
