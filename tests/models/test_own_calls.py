"""Pipelines of the hub: one line from a pipeline to the basis of its own call."""

import copy

import pytest
import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    DDIMScheduler,
    DDPMWuerstchenScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)
from transformers import T5GemmaConfig

import pullback
from pullback import denoise, local_basis, maps
from pullback.models import Schedule
from pullback.models.watching import accepts
from pullback.testing import leading, sine
from tests.models import by_hand, hub, own_call, schedulers

STEPS = 5  # over the whole schedule, in the comparison of the loops
LEVELS = 4  # likewise, where steps lead from one to the other end of a schedule
RANDOM = (CosineDPMSolverMultistepScheduler, DDPMWuerstchenScheduler, LCMScheduler)


def scheduler_like(own):
    """The scheduler whose steps ours are: DDIM with the same ᾱ, or Euler's on an even grid."""
    if Schedule(own).continuous:
        return EDMEulerScheduler.from_config(own.config) if "sigma_data" in own.config else own
    if Schedule(own).prediction_type == "flow":
        return FlowMatchEulerDiscreteScheduler()
    alphas = own.alphas_cumprod.float()
    betas = 1 - alphas / torch.cat([torch.ones(1), alphas[:-1]])
    made = DDIMScheduler(clip_sample=False, trained_betas=betas.tolist(), steps_offset=0)
    torch.testing.assert_close(made.alphas_cumprod, alphas)
    made.register_to_config(variance_type="fixed_small")  # which DeepFloyd IF looks for
    return made


@pytest.fixture(scope="module", params=sorted(set(hub.BUILDERS) - set(hub.REFUSED)))
def case(request, tmp_path_factory):
    pipeline = hub.BUILDERS[request.param](tmp_path_factory.mktemp("hub"))
    return hub.Case(request.param, pipeline)


def test_the_basis_is_that_of_the_pipelines_own_call(case):
    """Against the dense Jacobian of the call in float64, at the default tap and of x̂₀."""
    model, x = case.model, case.latents(1)
    cond = case.condition("a cat")
    exact = x.double().requires_grad_()
    given = case.given(case.double, exact)
    prediction, sample, t = own_call.handed(case.double, given)[0]
    feature = own_call.feature(case.double, case.network(case.double), given, model.default_tap)
    jacobian = own_call.dense(feature, exact)
    rank = by_hand.rank_of(jacobian)
    at = case.counted(t)
    found = local_basis(model, x, at, rank, cond=cond)
    _, s, v = leading(jacobian, rank)
    assert sine(found.v, v).max() <= 2e-3
    assert ((found.s - s).abs() <= 1e-3 * s[:, :1]).all()

    clean = case.denoised(sample, prediction, t)
    tangent = torch.randn_like(x)
    pulled = torch.autograd.grad(clean, exact, case.tokens(tangent, clean), retain_graph=True)[0]
    operator = maps.output(model, "denoised").at(x, at, cond).operator()
    ours = operator.rmatmat(tangent[:, None])[:, 0]
    assert (ours - pulled).norm() <= 2e-3 * pulled.norm()


def test_conditions_of_several_prompts_are_those_of_each(case):
    """Every sample of a batch has the prediction that it has alone, and prompts are heard."""
    if not accepts(case.pipeline, "prompt"):
        pytest.skip("its condition is no prompt")
    model, x, t = case.model, case.latents(2), case.model.schedule.num_timesteps // 2
    prompts = ["a cat", "a dog"]
    both = model.encode(prompt=prompts, **case.call)
    with torch.no_grad():
        found = model.predict(x, t, model.conditions.of(both, 2))
        for sample, prompt in enumerate(prompts):
            one = x[sample : sample + 1]
            cond = model.conditions.of(model.encode(prompt=prompt, **case.call), 1)
            alone = model.predict(one, t, cond)
            torch.testing.assert_close(found[sample : sample + 1], alone, rtol=1e-4, atol=1e-5)
    assert (found[0] - model.predict(x[:1], t, both_of(both, 1))[0]).abs().max() > 1e-6


def both_of(cond, sample):
    """The condition of one sample of a batch."""
    return {n: v if len(v) == 1 else v[sample : sample + 1] for n, v in cond.items()}


def test_sampling_is_the_pipelines_own_loop(case):
    """With the scheduler whose steps ours are; the latents after two of its steps."""
    pipeline = case.pipeline
    own = pipeline.scheduler
    if isinstance(own, RANDOM):
        pytest.skip("the pipeline runs with no other scheduler than that, whose steps are random")
    pipeline.scheduler = scheduler_like(own)
    try:
        continuous = Schedule(own).continuous
        given = {**case.given(pipeline, case.latents(1)), "num_inference_steps": STEPS}
        given |= {"num_inference_steps": LEVELS} if continuous else {}
        flow = Schedule(own).prediction_type == "flow"
        if flow and accepts(pipeline, "sigmas") and case.name != "CogView 4":  # has a grid itself
            given["sigmas"] = [1 - step / STEPS for step in range(STEPS)]
        states = own_call.handed(pipeline, given, 3)
        model = pullback.load(pipeline, call=case.call)
        times = [case.counted(t) if continuous else t for _, _, t in states]
        down = times[0] - times[1]
        steps = int(model.schedule.num_timesteps // down)
        if down != times[1] - times[2] or model.schedule.num_timesteps // steps != down:
            pytest.skip(f"the pipeline cannot be asked for even steps: {times}")
        start, expected = (
            schedulers.as_network_sees(pipeline.scheduler, states[i][1], torch.tensor(states[i][2]))
            for i in (0, 2)
        )
        if not case.packs:
            torch.testing.assert_close(start.float(), case.latents(1), rtol=1e-3, atol=1e-3)
        x = case.latents(1) if case.packs else start.reshape(1, *model.latent_shape)
        found = denoise(
            model, x.to(model.dtype), round(times[0]), round(times[2]),
            cond=case.condition("a cat"), steps=steps,
        )  # fmt: skip
        assert (case.tokens(found, expected) - expected).norm() <= 1e-4 * expected.norm()
    finally:
        pipeline.scheduler = own


def test_a_saved_pipeline_is_loaded_in_one_line(case, tmp_path):
    """With the predictions that it has in memory; or else diffusers itself cannot run it."""
    case.pipeline.save_pretrained(tmp_path, safe_serialization=True)
    if case.name == "PRX":
        # On the hub the text encoder has the configuration of the whole model that it is from.
        words = copy.deepcopy(case.pipeline.text_encoder.config)
        whole = T5GemmaConfig(encoder=words, is_encoder_decoder=False)
        whole.save_pretrained(tmp_path / "text_encoder")
    if case.name in hub.UNSAVED:
        with pytest.raises(Exception, match=hub.UNSAVED[case.name]):  # of any class
            type(case.pipeline).from_pretrained(tmp_path)(**case.call, prompt="a cat")
        with pytest.raises(ValueError, match=hub.UNSAVED[case.name]):
            pullback.load(tmp_path, call=case.call)
        return
    if case.name == "HiDream":
        pytest.skip("its experts have no derivatives as they are read: see the test of that")
    expected = case.model
    if case.name in hub.SWITCHED:
        expected = pullback.load(type(case.pipeline).from_pretrained(tmp_path), call=case.call)
    model, x = pullback.load(tmp_path, call=case.call), case.latents(1)
    prompts = {"prompt": "a cat"} if accepts(case.pipeline, "prompt") else {}
    conds = [one.encode(**prompts, **case.call) for one in (model, expected)]
    with torch.no_grad():
        found, wanted = (
            one.predict(x, 500, one.conditions.of(cond, 1))
            for one, cond in zip((model, expected), conds, strict=True)
        )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_experts_without_derivatives_are_refused_until_they_have_them(tmp_path):
    """HiDream's in evaluation mode; the other path gives the same features."""
    pipeline = hub.BUILDERS["HiDream"](tmp_path)
    experts = [one for one in pipeline.transformer.modules() if hasattr(one, "moe_infer")]
    case = hub.Case("HiDream", pipeline)
    x, cond = case.latents(1), case.model.conditions.of(case.condition("a cat"), 1)
    found = case.model.predict(x, 500, cond)
    for module in experts:
        module.eval()
    with pytest.raises(ValueError, match=r"without derivatives.*training = True"):
        pullback.load(pipeline, call=case.call)
    with torch.no_grad():
        same = case.model.family.call(pipeline.transformer, x, torch.tensor([500.0]), cond)
    torch.testing.assert_close(found, same, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parts_of_a_network_that_stay_in_float32_do_so_in_a_half_alone(dtype, tmp_path):
    """As diffusers has it, which reads such networks with a further package only."""
    built = hub.BUILDERS["Wan"](tmp_path)
    built.save_pretrained(tmp_path)
    model = pullback.load(tmp_path, dtype=dtype, call=hub.call_of("Wan"))
    assert type(model.network) is type(built.transformer)
    assert model.dtype == dtype
    kept = set(built.transformer._keep_in_fp32_modules)
    own = dict(built.transformer.named_parameters())
    for name, parameter in model.network.named_parameters():
        stays = dtype == torch.bfloat16 and kept & set(name.split("."))
        assert parameter.dtype == (torch.float32 if stays else dtype)
        assert torch.equal(parameter, own[name].to(parameter.dtype))
    x = torch.randn(1, *model.latent_shape).to(dtype)
    found = model.predict(x, 500, model.encode(prompt="a cat"))
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", sorted(hub.REFUSED))
def test_a_pipeline_in_other_units_of_time_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=hub.REFUSED[name]):
        pullback.load(hub.BUILDERS[name](tmp_path), call=hub.call_of(name))


def test_a_network_of_diffusers_alone_whose_units_nobody_has_stated_is_refused(tmp_path):
    pipeline = hub.BUILDERS["Lumina 2"](tmp_path)
    with pytest.raises(ValueError, match=r"a Lumina2Transformer2DModel counts time.*whole pip"):
        pullback.load(pipeline.transformer, scheduler=pipeline.scheduler, latent_shape=(4, 8, 8))


def test_two_networks_for_parts_of_the_schedule_are_refused(tmp_path):
    """As in Wan 2.2; every t would go through the first."""
    built = hub.BUILDERS["Wan"](tmp_path)
    other = copy.deepcopy(built.transformer)
    pipeline = type(built)(**built.components | {"transformer_2": other}, boundary_ratio=0.8)
    with pytest.raises(ValueError, match=r"not the same at all of its steps.*\[\]"):
        pullback.load(pipeline, call=hub.call_of("Wan"))


def test_a_helper_for_part_of_the_schedule_is_refused(tmp_path):
    pipeline = hub.BUILDERS["Stable Diffusion, ControlNet"](tmp_path)
    call = hub.call_of("Stable Diffusion, ControlNet") | {"control_guidance_end": 0.5}
    with pytest.raises(ValueError, match="controlnet's argument 'conditioning_scale' changes"):
        pullback.load(pipeline, call=call)


def test_embeddings_that_hold_those_to_avoid_are_refused(tmp_path):
    """Without guidance the pipeline hands the negative ones to its network, too."""
    name = "Stable Diffusion, IP-Adapter"
    pipeline = hub.BUILDERS[name](tmp_path)
    both = pipeline.prepare_ip_adapter_image_embeds(
        hub.call_of(name)["ip_adapter_image"], None, torch.device("cpu"), 1, True
    )
    assert len(both[0]) == 2
    with pytest.raises(ValueError, match=r"2 rows of 'added_cond_kwargs\.image_embeds\.0'"):
        pullback.load(pipeline, call={"ip_adapter_image_embeds": both})


@pytest.mark.parametrize(
    "name", ["AuraFlow", "HunyuanVideo", "LTX-Video", "Lumina 2", "Flux dev", "Z-Image"]
)
def test_a_pipeline_in_half_precision_is_read_too(name, tmp_path):
    """The time is rounded before or after its unit changes; the layout decides the last bits."""
    pipeline = hub.BUILDERS[name](tmp_path).to(torch.bfloat16)
    case = hub.Case(name, pipeline)
    x = case.latents(1).bfloat16()
    assert case.model.dtype == torch.bfloat16
    expected, _, t = own_call.handed(pipeline, case.given(pipeline, x))[0]
    cond = case.model.conditions.of(case.condition("a cat"), 1)
    found = case.tokens(case.model.predict(x, case.counted(t), cond), expected)
    assert (found - expected).norm() <= 2e-2 * expected.norm()


@pytest.mark.parametrize("name", ["AnimateDiff", "Stable Video Diffusion"])
def test_frames_that_are_rows_in_the_network_belong_to_their_samples(name, tmp_path):
    """A tap has one feature for each sample, and is put back as rows."""
    case = hub.Case(name, hub.BUILDERS[name](tmp_path))
    model, x, cond = case.model, case.latents(2), case.condition("a cat")
    (tap,) = [tap for tap in model.taps() if tap.path == model.default_tap]
    h = maps.encoder(model).at(x, 500, cond).value()
    assert h.shape == (2, *tap.shape)
    frames = 2
    assert tap.shape[0] == frames
    alone = maps.encoder(model).at(x[1:], 500, cond).value()
    torch.testing.assert_close(h[1:], alone, rtol=1e-4, atol=1e-4)
    decoder = maps.decoder(model, kind="denoised").at(x, 500, cond)
    expected = maps.output(model, "denoised").at(x, 500, cond).value()
    torch.testing.assert_close(decoder.value(), expected, rtol=1e-4, atol=1e-4)
    step, tangent = 3e-2, torch.randn(h.shape) / h[0].numel() ** 0.5
    ahead, back = (decoder.f(h + sign * step * tangent, *decoder.args) for sign in (1, -1))
    product = decoder.operator().matmat(tangent[:, None])[:, 0]
    slope = (ahead - back) / (2 * step)
    assert (product - slope).norm() <= 2e-2 * slope.norm()


def test_what_is_loaded_is_left_as_it_was(tmp_path):
    pipeline = hub.BUILDERS["Flux dev"](tmp_path)
    parts, scheduler = dict(pipeline.components), pipeline.scheduler
    steps, state = scheduler.timesteps.clone(), torch.get_rng_state()
    pullback.load(pipeline, call=hub.call_of("Flux dev")).encode(prompt="a cat")
    assert all(part is parts[name] for name, part in pipeline.components.items())
    assert torch.equal(scheduler.timesteps, steps)
    assert torch.equal(torch.get_rng_state(), state)
    assert "_pack_latents" not in vars(pipeline)
    assert not pipeline.transformer._forward_hooks
    assert not pipeline.transformer._forward_pre_hooks


def test_what_helps_the_network_is_in_its_fingerprint(tmp_path):
    name = "Stable Diffusion, ControlNet"
    pipeline = hub.BUILDERS[name](tmp_path)
    before = pullback.load(pipeline, call=hub.call_of(name))
    seen, whole = before.seen_fingerprint, before.fingerprint
    assert seen == whole
    with torch.no_grad():
        next(pipeline.controlnet.parameters()).add_(1)
    assert before.fingerprint != whole
    assert before.seen_fingerprint == before.fingerprint


def test_another_size_than_the_pipelines_own(stock):
    model = pullback.load(stock["stable_diffusion"], latent_shape=(4, 16, 8))
    assert model.latent_shape == (4, 16, 8)
    with pytest.raises(ValueError, match=r"call=\{'height'"):
        pullback.load(stock["stable_diffusion"], latent_shape=(5, 16, 8))


def test_a_prompt_for_each_of_several_lengths(tmp_path):
    """Qwen-Image masks the padding of a batch, and no padding where there is none."""
    pipeline = hub.BUILDERS["Qwen-Image"](tmp_path)
    model = pullback.load(pipeline, call=hub.call_of("Qwen-Image"))
    prompts = ["a cat", "a red dog on a hill"]
    both, long = model.encode(prompt=prompts), model.encode(prompt=prompts[1])
    assert set(both) - set(long) == {"encoder_hidden_states_mask"}
    x = torch.randn(2, *model.latent_shape)
    with torch.no_grad():
        found = model.predict(x, 500, model.conditions.of(both, 2))
        for sample, prompt in enumerate(prompts):
            one = model.conditions.of(model.encode(prompt=prompt), 1)
            alone = model.predict(x[sample : sample + 1], 500, one)
            torch.testing.assert_close(found[sample : sample + 1], alone, rtol=1e-4, atol=1e-5)


def test_what_the_pipeline_guides_away_from_is_the_null_condition(case):
    """One of the rows, or of the passes, of a guided step; or the empty prompt's."""
    model, pipeline = case.model, case.pipeline
    null = model.conditions.of(None, 1)
    assert null.keys() <= set(model.conditions.arguments)
    x = case.latents(1)
    with torch.no_grad():
        found = model.predict(x, 500, null)
    assert bool(torch.isfinite(found).all())
    if case.guides and accepts(pipeline, "prompt"):
        cond = case.condition("a cat")
        guided = own_call.handed(
            pipeline, {**case.given(pipeline, x), "guidance_scale": 3.0}
        )  # fmt: skip
        prediction, sample, t = guided[0]
        ours = [model.predict(x, round(t), model.conditions.of(one, 1)) for one in (null, cond)]
        expected = ours[0] + 3.0 * (ours[1] - ours[0])
        prediction = prediction[:, : sample.shape[1]]
        assert (expected - prediction).norm() <= 1e-3 * expected.norm()
