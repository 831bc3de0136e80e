"""More stock pipelines of tiny, randomly initialised parts: helpers, guides, images and videos."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    AutoencoderOobleck,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    ControlNetModel,
    CosineDPMSolverMultistepScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    KandinskyV22Pipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    PNDMScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
    VQModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.models import families
from tests.models.pipelines import autoencoder, text_encoder, tokenizer

#: What the calls of pipelines need for a tiny run, beside the prompt: by the builder's name.
CALL: dict[str, dict[str, Any]] = {}

LETTERS = 16  # of a prompt for T5, padding included
_SIDE = 8  # of the images: these autoencoders do not shrink them
_UNSAFE: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}


def picture(seed: int = 0, channels: int = 3) -> torch.Tensor:
    """An image of numbers from 0 to 1, `[1, channels, 8, 8]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, _SIDE, _SIDE, generator=generator)


@contextmanager
def seeded(seed: int = 3) -> Iterator[None]:
    """Context in which torch's random numbers start from a seed, and go on as before after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def lively(network: torch.nn.Module, factor: float = 2) -> torch.nn.Module:
    """A fresh network made such that its outputs depend on all its inputs; in eval mode.

    What is zero would cut parts off from one another, and fresh blocks hardly bend what passes.
    """
    for path, parameter in network.named_parameters():
        if not bool(parameter.any()):
            parameter.normal_(std=0.05)
        if "block" in path and parameter.dim() > 1:
            parameter *= factor
    return network.eval()


def unet(**changes: Any) -> torch.nn.Module:
    return lively(families.condition_unet(**changes))


def noise_scheduler() -> PNDMScheduler:
    return PNDMScheduler(skip_prk_steps=True, steps_offset=1)


def stable_diffusion_parts(folder: Path, **changes: Any) -> dict[str, Any]:
    """The parts of Stable Diffusion 1.5, with changes to its U-Net, without a safety checker."""
    return {
        "vae": autoencoder(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(folder),
        "unet": unet(**changes),
        "scheduler": noise_scheduler(),
        **_UNSAFE,
    }


#: Settings of the U-Net of SDXL, whose text encoders' words are joined.
XL: dict[str, Any] = {
    "cross_attention_dim": 2 * families.WIDTH,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + families.WIDTH,
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
}


def controlnet(network: Any, **changes: Any) -> torch.nn.Module:
    """A ControlNet for a U-Net; it is sure to have something to say."""
    shared = (
        "in_channels",
        "block_out_channels",
        "layers_per_block",
        "norm_num_groups",
        "attention_head_dim",
        "cross_attention_dim",
        "down_block_types",
    )
    settings = {key: network.config[key] for key in shared} | changes
    return lively(ControlNetModel(conditioning_embedding_out_channels=(4,), **settings))


def lcm(folder: Path) -> DiffusionPipeline:
    """As LCM Dreamshaper: the guidance scale is an argument of the U-Net."""
    with seeded():
        parts = stable_diffusion_parts(folder, time_cond_proj_dim=32)
        scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        return LatentConsistencyModelPipeline(**parts | {"scheduler": scheduler})


def sd_controlnet(folder: Path) -> DiffusionPipeline:
    """Stable Diffusion with a ControlNet."""
    with seeded():
        parts = stable_diffusion_parts(folder)
        helper = controlnet(parts["unet"])
        return StableDiffusionControlNetPipeline(**parts, controlnet=helper)


def sdxl_controlnet(folder: Path) -> DiffusionPipeline:
    """SDXL with a ControlNet, which takes the sizes and the pooled words too."""
    with seeded():
        network = unet(**XL)
        return StableDiffusionXLControlNetPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder(),
            text_encoder_2=text_encoder(CLIPTextModelWithProjection),
            tokenizer=tokenizer(folder),
            tokenizer_2=tokenizer(folder),
            unet=network,
            controlnet=controlnet(network, **XL),
            scheduler=noise_scheduler(),
            add_watermarker=False,
        )


def sd_inpaint(folder: Path) -> DiffusionPipeline:
    """Stable Diffusion that fills a hole: mask and masked image stand beside the latents."""
    with seeded():
        return StableDiffusionInpaintPipeline(**stable_diffusion_parts(folder, in_channels=9))


def instruct_pix2pix(folder: Path) -> DiffusionPipeline:
    """Stable Diffusion that edits an image, which stands beside the latents."""
    with seeded():
        parts = stable_diffusion_parts(folder, in_channels=8)
        return StableDiffusionInstructPix2PixPipeline(**parts)


def kandinsky22(_folder: Path) -> DiffusionPipeline:
    """The decoder of Kandinsky 2.2: an image's embedding, and a variance that is learned."""
    with seeded():
        network = unet(
            out_channels=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            resnet_time_scale_shift="scale_shift",
            encoder_hid_dim=families.WIDTH,
            encoder_hid_dim_type="image_proj",
            addition_embed_type="image",
        )
        decoder = VQModel(
            block_out_channels=(8,),
            norm_num_groups=4,
            latent_channels=4,
            num_vq_embeddings=8,
            vq_embed_dim=4,
        ).eval()
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, clip_sample=False, variance_type="learned_range"
    )
    return KandinskyV22Pipeline(unet=network, scheduler=scheduler, movq=decoder)


def sdxl_refiner(folder: Path) -> DiffusionPipeline:
    """SDXL's refiner: the second text encoder alone, an image, and how well it should look."""
    with seeded():
        sizes = {"projection_class_embeddings_input_dim": 5 * 4 + families.WIDTH}
        return StableDiffusionXLImg2ImgPipeline(
            vae=autoencoder(),
            text_encoder=None,
            text_encoder_2=text_encoder(CLIPTextModelWithProjection),
            tokenizer=None,
            tokenizer_2=tokenizer(folder),
            unet=unet(**XL | sizes | {"cross_attention_dim": families.WIDTH}),
            scheduler=noise_scheduler(),
            requires_aesthetics_score=True,
            add_watermarker=False,
        )


def image_encoder() -> torch.nn.Module:
    config = CLIPVisionConfig(
        hidden_size=families.WIDTH,
        projection_dim=families.WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=_SIDE,
        patch_size=4,
    )
    return CLIPVisionModelWithProjection(config).eval()


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": _SIDE}, crop_size=_SIDE, do_rescale=False)


def sd_ip_adapter(folder: Path) -> DiffusionPipeline:
    """Stable Diffusion with an IP-Adapter of two words for an image, made in memory."""
    with seeded():
        parts = stable_diffusion_parts(folder)
        network, words = parts["unet"], 2
        processors = {}
        for name, processor in network.attn_processors.items():
            attention = network.get_submodule(name.removesuffix(".processor"))
            if name.endswith("attn2.processor"):
                width = attention.inner_dim
                processors[name] = IPAdapterAttnProcessor2_0(width, families.WIDTH, (words,))
            else:
                processors[name] = processor
        network.set_attn_processor(processors)
        projection = ImageProjection(families.WIDTH, families.WIDTH, words)
        network.encoder_hid_proj = MultiIPAdapterImageProjection([projection]).eval()
        network.config.encoder_hid_dim_type = "ip_image_proj"  # as diffusers' own loader does it
        parts |= {"image_encoder": image_encoder(), "feature_extractor": image_processor()}
        pipeline = StableDiffusionPipeline(**parts)
    network.eval()  # the processors are made in training mode, by diffusers' own loader too
    return pipeline


def sd_fused(folder: Path) -> DiffusionPipeline:
    """Stable Diffusion with one projection for queries, keys and values."""
    with seeded():
        pipeline = StableDiffusionPipeline(**stable_diffusion_parts(folder))
    pipeline.fuse_qkv_projections()
    pipeline.unet.eval()  # the fused projections are made in training mode
    return pipeline


def sd_freeu(folder: Path) -> DiffusionPipeline:
    """Stable Diffusion with FreeU, which filters the skip connections."""
    with seeded():
        pipeline = StableDiffusionPipeline(**stable_diffusion_parts(folder))
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    return pipeline


def t5_tokenizer() -> T5TokenizerFast:
    """T5's tokenizer, over the alphabet."""
    words = ["<pad>", "</s>", "<unk>", "\u2581", *string.ascii_lowercase]
    return T5TokenizerFast([(word, -1.0) for word in words], extra_ids=0, model_max_length=LETTERS)


def t5_encoder(config: Any = T5Config, kind: Any = T5EncoderModel) -> torch.nn.Module:
    settings = config(
        vocab_size=32,
        d_model=families.WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return kind(settings).eval()


def wan(_folder: Path) -> DiffusionPipeline:
    """As Wan 2.1, text to video."""
    with seeded():
        network = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=families.WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=3,
            rope_max_seq_len=32,
        )
        decoder = AutoencoderKLWan(
            base_dim=3,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
        return WanPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5_encoder(UMT5Config, UMT5EncoderModel),
            vae=decoder.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            transformer=lively(network),
        )


def ltx(_folder: Path) -> DiffusionPipeline:
    """As LTX-Video, which makes tokens of its latents."""
    with seeded():
        network = LTXVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=3,
            caption_channels=families.WIDTH,
        )
        decoder = AutoencoderKLLTXVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            patch_size=1,
        )
        return LTXPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=decoder.eval(),
            text_encoder=t5_encoder(),
            tokenizer=t5_tokenizer(),
            transformer=lively(network),
        )


def cogvideox(_folder: Path) -> DiffusionPipeline:
    """As CogVideoX 2B, whose latents have frames before channels."""
    with seeded():
        network = CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=16,
            text_embed_dim=families.WIDTH,
            num_layers=3,
            sample_width=8,
            sample_height=8,
            sample_frames=5,
            max_text_seq_length=LETTERS,
        )
        decoder = AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
        )
        scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=3.0,
            timestep_spacing="trailing",
        )
        return CogVideoXPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5_encoder(),
            vae=decoder.eval(),
            transformer=lively(network),
            scheduler=scheduler,
        )


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer over the alphabet, in place of Llama's."""
    words = ["<pad>", "<s>", "<unk>", " ", *string.ascii_lowercase]
    model = WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    made = Tokenizer(model)
    made.pre_tokenizer = Split("", "isolated")
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", unk_token="<unk>"
    )


def hunyuan_video(folder: Path) -> DiffusionPipeline:
    """As HunyuanVideo: the guidance scale is an argument of the network."""
    with seeded():
        network = HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=2,
            num_refiner_layers=1,
            text_embed_dim=families.WIDTH,
            pooled_projection_dim=families.WIDTH,
            rope_axes_dim=(4, 4, 4),
        )
        decoder = AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        )
        words = LlamaConfig(
            vocab_size=30,
            hidden_size=families.WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,  # the pipeline reads the second but last
            num_attention_heads=4,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
        )
        pooled = CLIPTextConfig(
            vocab_size=58,
            hidden_size=families.WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,  # which the pipeline asks for
            bos_token_id=56,
            eos_token_id=57,
            pad_token_id=57,
        )
        return HunyuanVideoPipeline(
            text_encoder=LlamaModel(words).eval(),
            tokenizer=llama_tokenizer(),
            transformer=lively(network),
            vae=decoder.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder_2=CLIPTextModel(pooled).eval(),
            tokenizer_2=tokenizer(folder),
        )


def stable_video(_folder: Path) -> DiffusionPipeline:
    """As Stable Video Diffusion: an image beside the latents; its network counts time in sigmas."""
    with seeded():
        network = UNetSpatioTemporalConditionModel(
            sample_size=_SIDE,
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            layers_per_block=1,
            cross_attention_dim=families.WIDTH,
            num_attention_heads=2,
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=3 * 4,
            num_frames=2,
        )
        decoder = AutoencoderKLTemporalDecoder(block_out_channels=(32,))
        scheduler = EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            sigma_min=0.002,
            sigma_max=700.0,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        )
        return StableVideoDiffusionPipeline(
            vae=decoder.eval(),
            image_encoder=image_encoder(),
            unet=lively(network),
            scheduler=scheduler,
            feature_extractor=image_processor(),
        )


def stable_audio(_folder: Path) -> DiffusionPipeline:
    """As Stable Audio: 16 samples of a row of latents; its scheduler counts in sigmas."""
    with seeded():
        network = StableAudioDiTModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=4,
            num_key_value_attention_heads=2,
            cross_attention_dim=families.WIDTH,
            cross_attention_input_dim=families.WIDTH,
            time_proj_dim=16,
            global_states_input_dim=2 * families.WIDTH,
        )
        with torch.no_grad():  # what weights are normalised to is no leaf else, and not copied
            decoder = AutoencoderOobleck(
                encoder_hidden_size=6,
                downsampling_ratios=[1, 2],
                channel_multiples=[2, 4],
                decoder_channels=4,
                decoder_input_channels=4,
                sampling_rate=4,
            )
        projection = StableAudioProjectionModel(families.WIDTH, families.WIDTH, 0, 32)
        return StableAudioPipeline(
            vae=decoder.eval(),
            text_encoder=t5_encoder(),
            projection_model=projection.eval(),
            tokenizer=t5_tokenizer(),
            transformer=lively(network),
            scheduler=CosineDPMSolverMultistepScheduler(),
        )


CALL["sd_controlnet"] = CALL["sdxl_controlnet"] = {"image": picture()}
CALL["sd_inpaint"] = {"image": picture(), "mask_image": picture(1, 1).round()}
CALL["instruct_pix2pix"] = {"image": picture()}
CALL["kandinsky22"] = {
    "image_embeds": picture(2)[:, 0].reshape(1, -1)[:, : families.WIDTH],
    "negative_image_embeds": picture(3)[:, 0].reshape(1, -1)[:, : families.WIDTH],
    "height": _SIDE,
    "width": _SIDE,
}
CALL["sdxl_refiner"] = {"image": picture(), "strength": 0.8}
CALL["sd_ip_adapter"] = {"ip_adapter_image": picture()}

_VIDEO = {"height": 64, "width": 64, "num_frames": 5}  # 2 x 8 x 8 latents
CALL["wan"] = CALL["cogvideox"] = _VIDEO | {"max_sequence_length": LETTERS}
CALL["ltx"] = CALL["wan"] | {"height": 32, "width": 32}
CALL["hunyuan_video"] = {
    "height": 64,
    "width": 64,
    "num_frames": 5,
    "max_sequence_length": LETTERS,
    "prompt_template": {"template": "{}", "crop_start": 0},
}
CALL["stable_video"] = {
    "image": picture(), "height": _SIDE, "width": _SIDE, "num_frames": 2, "noise_aug_strength": 0.0
}  # fmt: skip
CALL["stable_audio"] = {"audio_end_in_s": 2.0}

BUILDERS: dict[str, Callable[[Path], DiffusionPipeline]] = {
    "Latent consistency": lcm,
    "Stable Diffusion, ControlNet": sd_controlnet,
    "SDXL, ControlNet": sdxl_controlnet,
    "Stable Diffusion, inpainting": sd_inpaint,
    "InstructPix2Pix": instruct_pix2pix,
    "Kandinsky 2.2": kandinsky22,
    "SDXL, refiner": sdxl_refiner,
    "Stable Diffusion, IP-Adapter": sd_ip_adapter,
    "Stable Diffusion, fused projections": sd_fused,
    "Stable Diffusion, FreeU": sd_freeu,
    "Wan": wan,
    "LTX-Video": ltx,
    "CogVideoX": cogvideox,
    "HunyuanVideo": hunyuan_video,
    "Stable Video Diffusion": stable_video,
    "Stable Audio": stable_audio,
}
