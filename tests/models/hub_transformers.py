"""Stock pipelines of large transformers of the hub, tiny and random, with text encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PRXPipeline,
    PRXTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    ByT5Tokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5GemmaModuleConfig,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from tests.models import families, pipelines
from tests.models.families import WIDTH

T = TypeVar("T", bound=nn.Module)

#: Keyword arguments that a call needs to be small, by the name of the builder.
CALL: dict[str, dict[str, Any]] = {}

PAD, END, START, UNKNOWN = "<pad>", "<eos>", "<bos>", "<unk>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
KNOWN = (
    "\n , . : a an and at bird black blue bottle bowl car cat chair dog face flower glass green "
    "horse house image in large man moon of on orange painting photo photograph picture red river "
    "ship sitting sky small sun table the tree water white woman yellow system user assistant"
)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: With messages in parts.
PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
)

#: Of a decoder-only text encoder.
DECODER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def tokenizer(*, before: str = "", after: str = "", **settings: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, which adds what is given before and after a prompt."""
    words = [PAD, END, START, UNKNOWN, TURN, TURN_END, *KNOWN.split(" ")]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation(),
        ]
    )
    added = [one for one in (before, after) if one]
    if added:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(),
            special_tokens=[(one, words.index(one)) for one in added],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=END,
        bos_token=START,
        unk_token=UNKNOWN,
        additional_special_tokens=[TURN, TURN_END],
        **settings,
    )


def random(build: Callable[[], T], *, factor: float = 2.0, only: str = "") -> T:
    """A module with the same random weights every time, whose outputs depend on its inputs.

    Args:
        build: makes it.
        factor: what its matrices are multiplied by.
        only: a part of the paths of the matrices that are.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        module = build().eval().float()
        for path, parameter in module.named_parameters():
            if not bool(parameter.any()):  # gates that are initialised to zero
                parameter.normal_(std=0.05)
            if only in path and parameter.dim() > 1:
                parameter *= factor
    return module


def encoder(build: Callable[[], T]) -> T:
    """A text encoder, whose fresh weights are so small that prompts hardly differ."""
    return random(build, factor=5)


def t5(
    width: int = WIDTH, kind: Any = T5EncoderModel, config: Any = T5Config, **changes: Any
) -> nn.Module:
    """T5's encoder, or one of its likes."""
    settings: dict[str, Any] = {
        "vocab_size": 96,
        "d_model": width,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "feed_forward_proj": "gated-gelu",
    }
    return random(lambda: kind(config(**settings | changes)), factor=1)


def clip(kind: Any = CLIPTextModel) -> nn.Module:
    """One of CLIP's text encoders."""
    return random(lambda: pipelines.text_encoder(kind), factor=1)


def autoencoder(halvings: int = 0, **settings: Any) -> AutoencoderKL:
    """An autoencoder that makes images so many times smaller by half."""
    return random(
        lambda: AutoencoderKL(
            block_out_channels=(8,) * (halvings + 1),
            norm_num_groups=4,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
            up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
            layers_per_block=1,
            **({"shift_factor": 0.1} | settings),
        ),
        factor=1,
    )


def flow(**settings: Any) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of flow models."""
    return FlowMatchEulerDiscreteScheduler(**settings)


CALL["lumina2"] = {"max_sequence_length": 48}


def lumina2(_folder: Path) -> Lumina2Pipeline:
    """As Lumina Image 2.0."""
    network = random(
        lambda: Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=3,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(64, 16, 16),
            cap_feat_dim=WIDTH,
        ),
        only="layers",
    )
    return Lumina2Pipeline(
        transformer=network,
        scheduler=flow(shift=6.0),
        vae=autoencoder(),
        text_encoder=encoder(lambda: Gemma2Model(Gemma2Config(**DECODER))),
        tokenizer=tokenizer(before=START, padding_side="right"),
    )


CALL["z_image"] = {"height": 8, "width": 8, "max_sequence_length": 16}


def z_image(_folder: Path) -> ZImagePipeline:
    """As Z-Image."""
    network = random(
        lambda: ZImageTransformer2DModel(
            in_channels=4,
            dim=24,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 4, 4],
            axes_lens=[128, 16, 16],
        ),
        only="layers",
    )
    return ZImagePipeline(
        scheduler=flow(shift=3.0),
        vae=autoencoder(),
        text_encoder=encoder(lambda: Qwen3Model(Qwen3Config(**DECODER))),
        tokenizer=tokenizer(chat_template=CHAT),
        transformer=network,
    )


def qwen_vision_language(layers: int = 2) -> Qwen2_5_VLForConditionalGeneration:
    """As Qwen2.5-VL."""
    text = DECODER | {"rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]}}
    del text["head_dim"]
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    config = Qwen2_5_VLConfig(
        text_config=text | {"num_hidden_layers": layers}, vision_config=vision
    )
    return encoder(lambda: Qwen2_5_VLForConditionalGeneration(config))


CALL["qwen_image"] = {"height": 16, "width": 16}


def qwen_network() -> nn.Module:
    """The denoising network of Qwen-Image and of its kind."""
    return random(
        lambda: QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=3,
            attention_head_dim=12,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 4, 4),
        ),
        only="blocks",
    )


def qwen_image(_folder: Path) -> QwenImagePipeline:
    """As Qwen-Image."""
    compressing = random(
        lambda: AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        factor=1,
    )
    return QwenImagePipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=compressing,
        text_encoder=qwen_vision_language(),
        tokenizer=tokenizer(padding_side="right"),
        transformer=qwen_network(),
    )


CALL["sana"] = {
    "height": 32,
    "width": 32,
    "use_resolution_binning": False,
    "complex_human_instruction": None,
    "max_sequence_length": 12,
}


def sana(_folder: Path) -> SanaPipeline:
    """As Sana."""
    network = random(
        lambda: SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=3,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=WIDTH,
            sample_size=8,
        ),
        only="blocks",
    )
    compressing = random(
        lambda: AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), ()),
            decoder_qkv_multiscales=((), (), ()),
        ),
        factor=1,
    )
    return SanaPipeline(
        tokenizer=tokenizer(before=START, padding_side="right"),
        text_encoder=encoder(lambda: Gemma2Model(Gemma2Config(**DECODER))),
        vae=compressing,
        transformer=network,
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


CALL["aura_flow"] = {"height": 8, "width": 8, "max_sequence_length": 12}


def aura_flow(_folder: Path) -> AuraFlowPipeline:
    """As AuraFlow."""
    network = random(
        lambda: AuraFlowTransformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=2,
            num_single_dit_layers=2,
            attention_head_dim=12,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=24,
            pos_embed_max_size=16,
        ),
        only="blocks",
    )
    return AuraFlowPipeline(
        tokenizer=tokenizer(after=END),
        text_encoder=t5(kind=UMT5EncoderModel, config=UMT5Config),
        vae=autoencoder(),
        transformer=network,
        scheduler=flow(shift=1.73),
    )


def cogview4(_folder: Path) -> CogView4Pipeline:
    """As CogView 4."""
    network = random(
        lambda: CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=12,
            num_attention_heads=2,
            text_embed_dim=WIDTH,
            time_embed_dim=16,
            condition_dim=4,
            pos_embed_max_size=8,
            sample_size=12,
            rope_axes_dim=(8, 8),
        ),
        only="blocks",
    )
    return CogView4Pipeline(
        tokenizer=tokenizer(before=START, padding_side="left"),
        text_encoder=encoder(lambda: GlmModel(GlmConfig(**DECODER))),
        vae=autoencoder(2),
        transformer=network,
        scheduler=flow(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )


CALL["chroma"] = {"height": 8, "width": 8, "max_sequence_length": 12}


def chroma(_folder: Path) -> ChromaPipeline:
    """As Chroma."""
    network = random(
        lambda: ChromaTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=12,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 4, 4),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        only="blocks",
    )
    return ChromaPipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=autoencoder(),
        text_encoder=t5(),
        tokenizer=tokenizer(after=END),
        transformer=network,
    )


CALL["pixart_sigma"] = {
    "height": 8,
    "width": 8,
    "use_resolution_binning": False,
    "clean_caption": False,
    "max_sequence_length": 12,
}


def pixart_sigma(_folder: Path) -> PixArtSigmaPipeline:
    """As PixArt-Sigma."""
    return PixArtSigmaPipeline(
        tokenizer=tokenizer(after=END),
        text_encoder=t5(),
        vae=autoencoder(shift_factor=None),
        transformer=random(families.pixart, factor=4, only="blocks"),
        scheduler=DPMSolverMultistepScheduler(),
    )


CALL["stable_diffusion_3"] = {"max_sequence_length": 12}


def stable_diffusion_3(folder: Path, *, third: bool = True) -> StableDiffusion3Pipeline:
    """As Stable Diffusion 3, with or without its third text encoder."""
    network = random(
        lambda: SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=12,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=24,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=8,
        ),
        only="blocks",
    )
    return StableDiffusion3Pipeline(
        transformer=network,
        scheduler=flow(shift=3.0),
        vae=autoencoder(),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=pipelines.tokenizer(folder),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=pipelines.tokenizer(folder),
        text_encoder_3=t5(2 * WIDTH) if third else None,
        tokenizer_3=tokenizer(after=END) if third else None,
    )


CALL["stable_diffusion_3_clip"] = CALL["stable_diffusion_3"]


def stable_diffusion_3_clip(folder: Path) -> StableDiffusion3Pipeline:
    """As Stable Diffusion 3 where its third text encoder was left out to save memory."""
    return stable_diffusion_3(folder, third=False)


CALL["flux"] = {"height": 8, "width": 8, "max_sequence_length": 12}


def flux(folder: Path, *, guidance: bool = False) -> FluxPipeline:
    """As Flux, distilled with guidance or not."""
    return FluxPipeline(
        scheduler=flow(use_dynamic_shifting=guidance),
        vae=autoencoder(),
        text_encoder=clip(),
        tokenizer=pipelines.tokenizer(folder),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(after=END),
        transformer=random(lambda: families.flux(guidance), only="blocks"),
    )


CALL["flux_dev"] = CALL["flux"]


def flux_dev(folder: Path) -> FluxPipeline:
    """As Flux dev, which takes the scale of guidance as an argument."""
    return flux(folder, guidance=True)


CALL["hunyuan_dit"] = {"use_resolution_binning": False}


def hunyuan_dit(_folder: Path) -> HunyuanDiTPipeline:
    """As HunyuanDiT."""
    network = random(
        lambda: HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            hidden_size=32,
            num_layers=4,
            mlp_ratio=2.0,
            cross_attention_dim=WIDTH,
            cross_attention_dim_t5=WIDTH,
            pooled_projection_dim=16,
        ),
        only="blocks",
    )
    bert = BertConfig(
        vocab_size=96,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=80,
    )
    return HunyuanDiTPipeline(
        vae=autoencoder(3, shift_factor=None),
        text_encoder=encoder(lambda: BertModel(bert)),
        tokenizer=tokenizer(before=START, after=END),
        transformer=network,
        scheduler=DDPMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.03,
            prediction_type="v_prediction",
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(after=END),
    )


CALL["prx"] = {
    "height": 8,
    "width": 8,
    "use_resolution_binning": False,
    "skip_text_cleaning": True,
    "tokenizer_max_length": 12,
}


def prx(_folder: Path) -> PRXPipeline:
    """As PRX."""
    network = random(
        lambda: PRXTransformer2DModel(
            in_channels=4,
            context_in_dim=WIDTH,
            hidden_size=24,
            mlp_ratio=2.0,
            num_heads=2,
            depth=3,
            axes_dim=[6, 6],
        ),
        only="blocks",
    )
    pipeline = PRXPipeline(
        transformer=network,
        scheduler=flow(shift=3.0),
        text_encoder=encoder(
            lambda: T5GemmaEncoder(T5GemmaModuleConfig(**DECODER, dropout_rate=0.0))
        ),
        tokenizer=tokenizer(after=END),
        vae=autoencoder(),
    )
    pipeline.text_preprocessor.basic_clean = str.strip  # the stock one asks for a further package
    return pipeline


CALL["flux2"] = {
    "height": 16,
    "width": 16,
    "max_sequence_length": 48,
    "text_encoder_out_layers": (0, 1, 2),
}


def flux2(_folder: Path) -> Flux2Pipeline:
    """As Flux 2 dev, which takes the scale of guidance as an argument."""
    network = random(
        lambda: Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
        ),
        factor=3,
        only="blocks",
    )
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 28,
    }
    mistral = Mistral3Config(
        text_config=DECODER | {"model_type": "mistral"},
        vision_config=vision | {"model_type": "pixtral"},
    )
    compressing = random(
        lambda: AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
        ),
        factor=1,
    )
    return Flux2Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=compressing,
        text_encoder=encoder(lambda: Mistral3ForConditionalGeneration(mistral)),
        tokenizer=tokenizer(before=START, chat_template=PARTS),
        transformer=network,
    )


CALL["cogview3_plus"] = {"max_sequence_length": 12}


def cogview3_plus(_folder: Path) -> CogView3PlusPipeline:
    """As CogView 3+."""
    network = random(
        lambda: CogView3PlusTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=12,
            num_attention_heads=2,
            text_embed_dim=WIDTH,
            time_embed_dim=16,
            condition_dim=4,
            pos_embed_max_size=8,
            sample_size=8,
        ),
        factor=3,
        only="blocks",
    )
    return CogView3PlusPipeline(
        tokenizer=tokenizer(after=END),
        text_encoder=t5(),
        vae=autoencoder(shift_factor=None),
        transformer=network,
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=4.0
        ),
    )


CALL["hunyuan_image"] = {"height": 16, "width": 16}


def hunyuan_image(_folder: Path) -> HunyuanImagePipeline:
    """As HunyuanImage 2.1, distilled."""
    network = random(
        lambda: HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=2,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            patch_size=(2, 2),
            guidance_embeds=True,
            text_embed_dim=WIDTH,
            text_embed_2_dim=WIDTH,
            rope_axes_dim=(6, 6),
            use_meanflow=False,
        ),
        only="transformer_blocks",
    )
    compressing = random(
        lambda: AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            spatial_compression_ratio=2,
            sample_size=16,
            scaling_factor=0.75,
        ),
        factor=1,
    )
    pipeline = HunyuanImagePipeline(
        scheduler=flow(shift=4.0),
        vae=compressing,
        text_encoder=qwen_vision_language(3),
        tokenizer=tokenizer(padding_side="right"),
        text_encoder_2=t5(vocab_size=384),
        tokenizer_2=ByT5Tokenizer(),
        transformer=network,
    )
    pipeline.tokenizer_max_length = pipeline.tokenizer_2_max_length = 16
    return pipeline


BUILDERS: dict[str, Callable[[Path], DiffusionPipeline]] = {
    "Lumina 2": lumina2,
    "Z-Image": z_image,
    "Qwen-Image": qwen_image,
    "Sana": sana,
    "AuraFlow": aura_flow,
    "CogView 4": cogview4,
    "Chroma": chroma,
    "PixArt-Sigma": pixart_sigma,
    "Stable Diffusion 3": stable_diffusion_3,
    "Stable Diffusion 3 without T5": stable_diffusion_3_clip,
    "Flux": flux,
    "Flux dev": flux_dev,
    "HunyuanDiT": hunyuan_dit,
    "PRX": prx,
    "Flux 2": flux2,
    "CogView 3+": cogview3_plus,
    "HunyuanImage": hunyuan_image,
}
