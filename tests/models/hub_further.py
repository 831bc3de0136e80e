"""Further stock pipelines, tiny and random: those that edit images, and less common networks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sentencepiece
import torch
from diffusers import (
    AutoencoderKLMochi,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    BriaPipeline,
    BriaTransformer2DModel,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    IFPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
    KolorsPipeline,
    MochiPipeline,
    MochiTransformer3DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    VQModel,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from diffusers.pipelines.kandinsky5 import pipeline_kandinsky_t2i
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from diffusers.pipelines.prx import pipeline_prx
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3Config,
    Qwen3Model,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.models import families, pipelines
from tests.models.families import WIDTH
from tests.models.hub_more import XL, image_processor, picture
from tests.models.hub_transformers import (
    CHAT,
    DECODER,
    END,
    KNOWN,
    autoencoder,
    clip,
    encoder,
    flow,
    qwen_network,
    qwen_vision_language,
    random,
    t5,
    tokenizer,
)

#: A package that some pipelines clean prompts with; those of the tests are clean.
for module in (pipeline_kandinsky_t2i, pipeline_prx, pipeline_wan_i2v):
    vars(module).setdefault("ftfy", SimpleNamespace(fix_text=str))

#: Keyword arguments that a call needs, by the name of the builder.
CALL: dict[str, dict[str, Any]] = {}

_FLUX: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 16,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "axes_dims_rope": (4, 4, 8),
}
#: A call for a small image.
_SMALL: dict[str, Any] = {"height": 8, "width": 8, "max_sequence_length": 12}


def photo(seed: int = 0) -> Image.Image:
    """A picture, as a file would give it."""
    return VaeImageProcessor.numpy_to_pil(picture(seed).permute(0, 2, 3, 1).numpy())[0]


def flux_network(**settings: Any) -> FluxTransformer2DModel:
    """Flux' network, distilled with guidance."""
    sizes = {"num_layers": 1, "num_single_layers": 2, "guidance_embeds": True}
    return random(lambda: FluxTransformer2DModel(**_FLUX | sizes | settings), only="blocks")


def flux_parts(folder: Path) -> dict[str, Any]:
    """The parts of Flux, but for its network."""
    return {
        "scheduler": flow(),
        "vae": autoencoder(),
        "text_encoder": clip(),
        "tokenizer": pipelines.tokenizer(folder),
        "text_encoder_2": t5(),
        "tokenizer_2": tokenizer(after=END),
    }


CALL["flux_kontext"] = _SMALL | {
    # Wider than what is made of it: fewer of its tokens are latents than are the condition.
    "image": torch.cat([picture(), picture(1)], 3),
    "max_area": 64,
    "_auto_resize": False,
}


def flux_kontext(folder: Path) -> FluxKontextPipeline:
    """As Flux Kontext: the tokens of an image stand beside those of the latents."""
    return FluxKontextPipeline(**flux_parts(folder), transformer=flux_network())


CALL["flux_fill"] = _SMALL | {"image": picture(), "mask_image": picture(1, 1).round()}


def flux_fill(folder: Path) -> FluxFillPipeline:
    """As Flux Fill: an image and a mask stand in further channels of each token."""
    network = flux_network(in_channels=36, out_channels=16)
    return FluxFillPipeline(**flux_parts(folder), transformer=network)


CALL["flux_controlnet"] = _SMALL | {"control_image": picture()}


def flux_controlnet(folder: Path) -> FluxControlNetPipeline:
    """Flux with a ControlNet."""
    sizes = {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
    helper = random(lambda: FluxControlNetModel(**_FLUX | sizes), only="blocks")
    network = flux_network()
    return FluxControlNetPipeline(**flux_parts(folder), transformer=network, controlnet=helper)


class _SmallImages(VaeImageProcessor):
    """Makes images of 8 pixels where the pipeline asks for 1024, which it always does."""

    def resize(self, image: Any, height: int, width: int, **settings: Any) -> Any:
        return super().resize(image, height // 128, width // 128, **settings)


class _WithoutVideos(Qwen2VLProcessor):
    """Qwen's processor of texts and images; its part for videos asks for torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None) -> None:
        super().__init__(image_processor, tokenizer)


def sighted_processor() -> Qwen2VLProcessor:
    """Makes tokens of texts and images."""
    vision = ["<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>"]
    words = tokenizer(padding_side="right")
    words.add_special_tokens({"additional_special_tokens": vision})
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28)
    return _WithoutVideos(images, words)


CALL["qwen_image_edit"] = {"image": photo(), "height": 1024, "width": 1024}


def qwen_image_edit(_folder: Path, kind: Any = QwenImageEditPipeline) -> QwenImageEditPipeline:
    """As Qwen-Image Edit: an image beside the latents, and before the words of the prompt."""
    processor = sighted_processor()
    words = processor.tokenizer
    sighted = qwen_vision_language()
    sighted.config.image_token_id = words.convert_tokens_to_ids("<|image_pad|>")
    sighted.config.vision_start_token_id = words.convert_tokens_to_ids("<|vision_start|>")
    compressing = random(
        lambda: AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1],
            num_res_blocks=1,
            temperal_downsample=[],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        factor=1,
    )
    pipeline = kind(
        scheduler=flow(use_dynamic_shifting=True),
        vae=compressing,
        text_encoder=sighted,
        tokenizer=words,
        processor=processor,
        transformer=qwen_network(),
    )
    pipeline.vae_scale_factor = 128
    pipeline.image_processor = _SmallImages(vae_scale_factor=1)
    return pipeline


CALL["qwen_image_edit_plus"] = CALL["qwen_image_edit"] | {"image": [photo(), photo(1)]}


def qwen_image_edit_plus(folder: Path) -> QwenImageEditPlusPipeline:
    """As Qwen-Image Edit 2509, which takes several images, and one prompt at a time."""
    return qwen_image_edit(folder, QwenImageEditPlusPipeline)


def sentencepieces() -> bytes:
    """A model of sentencepiece that knows the tests' words."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([KNOWN.replace("\n", ""), "abcdefghijklmnopqrstuvwxyz"]),
        model_writer=model,
        vocab_size=76,
        minloglevel=2,
    )
    return model.getvalue()


def kolors(folder: Path) -> KolorsPipeline:
    """As Kolors: SDXL with the words of ChatGLM."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepieces())
    glm = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=96,
        hidden_size=WIDTH,
        ffn_hidden_size=64,
        kv_channels=8,
        num_attention_heads=4,
        seq_length=16,
        add_qkv_bias=True,
        multi_query_attention=True,
        multi_query_group_num=2,
        original_rope=True,
    )

    def words() -> ChatGLMModel:
        made = ChatGLMModel(glm, empty_init=False)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "layernorm" in name:  # which are left as the memory held them
                    parameter.fill_(1)
        return made

    settings = XL | {
        "cross_attention_dim": 24,
        "encoder_hid_dim": WIDTH,
        "encoder_hid_dim_type": "text_proj",
    }
    return KolorsPipeline(
        vae=autoencoder(shift_factor=None),
        text_encoder=encoder(words),
        tokenizer=ChatGLMTokenizer(str(folder / "tokenizer.model")),
        unet=random(lambda: families.condition_unet(**settings), only="block"),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.014,
            steps_offset=1,
            timestep_spacing="leading",
        ),
    )


CALL["kandinsky3"] = {"height": 64, "width": 64}


def kandinsky3(_folder: Path) -> Kandinsky3Pipeline:
    """As Kandinsky 3, whose U-Net has no middle block."""
    network = random(
        lambda: Kandinsky3UNet(
            time_embedding_dim=32,
            groups=4,
            attention_head_dim=8,
            layers_per_block=2,
            block_out_channels=(16, 16, 32, 32),
            cross_attention_dim=WIDTH,
            encoder_hid_dim=WIDTH,
        ),
        only="block",
    )
    decoder = random(
        lambda: VQModel(
            block_out_channels=(8,),
            norm_num_groups=4,
            latent_channels=4,
            num_vq_embeddings=8,
            vq_embed_dim=4,
        ),
        factor=1,
    )
    return Kandinsky3Pipeline(
        tokenizer=tokenizer(after=END),
        text_encoder=t5(),
        unet=network,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False),
        movq=decoder,
    )


def deepfloyd(_folder: Path) -> IFPipeline:
    """As DeepFloyd IF: pixels, T5's words, and a variance that is learned."""
    settings = {
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
        "cross_attention_norm": "group_norm",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "encoder_hid_dim": WIDTH,
        "encoder_hid_dim_type": "text_proj",
    }
    return IFPipeline(
        tokenizer=tokenizer(after=END),
        text_encoder=t5(),
        unet=random(lambda: families.condition_unet(**settings), only="block"),
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            variance_type="learned_range",
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


CALL["ovis_image"] = _SMALL


def ovis_image(_folder: Path) -> OvisImagePipeline:
    """As Ovis-Image."""
    network = random(
        lambda: OvisImageTransformer2DModel(
            in_channels=16,
            out_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
        ),
        only="blocks",
    )
    return OvisImagePipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=autoencoder(),
        text_encoder=encoder(lambda: Qwen3Model(Qwen3Config(**DECODER))),
        tokenizer=tokenizer(chat_template=CHAT, padding_side="right"),
        transformer=network,
    )


CALL["bria"] = {"height": 16, "width": 16, "max_sequence_length": 12}


def bria(_folder: Path) -> BriaPipeline:
    """As Bria 3.2."""
    network = random(
        lambda: BriaTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=[4, 4, 8],
        ),
        only="blocks",
    )
    return BriaPipeline(
        transformer=network,
        scheduler=flow(use_dynamic_shifting=True),
        vae=autoencoder(1),
        text_encoder=t5(),
        tokenizer=tokenizer(after=END),
    )


CALL["mochi"] = {"height": 64, "width": 64, "num_frames": 7, "max_sequence_length": 12}


def mochi(_folder: Path) -> MochiPipeline:
    """As Mochi 1."""
    network = random(
        lambda: MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=3,
            pooled_projection_dim=16,
            in_channels=4,
            text_embed_dim=WIDTH,
            time_embed_dim=16,
            max_sequence_length=12,
        ),
        only="blocks",
    )
    decoder = random(
        lambda: AutoencoderKLMochi(
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            latent_channels=4,
            layers_per_block=(1, 1, 1, 1, 1),
            latents_mean=(0.0,) * 4,
            latents_std=(1.0,) * 4,
        ),
        factor=1,
    )
    return MochiPipeline(
        scheduler=flow(invert_sigmas=True),
        vae=decoder,
        text_encoder=t5(),
        tokenizer=tokenizer(after=END),
        transformer=network,
    )


CALL["wan_image_to_video"] = {
    "image": photo(),
    "height": 64,
    "width": 64,
    "num_frames": 5,
    "max_sequence_length": 12,
}


def wan_image_to_video(_folder: Path) -> WanImageToVideoPipeline:
    """As Wan 2.1, image to video: the first frame stands beside the latents and in the words."""
    network = random(
        lambda: WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4 + 4 + 4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=3,
            rope_max_seq_len=32,
            image_dim=WIDTH,
            added_kv_proj_dim=24,
        ),
        only="blocks",
    )
    decoder = random(
        lambda: AutoencoderKLWan(
            base_dim=3,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        factor=1,
    )
    eyes = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=8,
        patch_size=4,
    )
    return WanImageToVideoPipeline(
        tokenizer=tokenizer(after=END),
        text_encoder=t5(kind=UMT5EncoderModel, config=UMT5Config),
        vae=decoder,
        scheduler=flow(shift=3.0),
        image_processor=image_processor(),
        image_encoder=random(lambda: CLIPVisionModel(eyes), factor=5),
        transformer=network,
    )


CALL["hidream"] = {"height": 64, "width": 64, "max_sequence_length": 12}


def hidream(folder: Path) -> HiDreamImagePipeline:
    """As HiDream: every block has the words of a layer of Llama, and experts of its own."""
    network = random(
        lambda: HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[WIDTH, WIDTH],
            text_emb_dim=2 * WIDTH,
            num_routed_experts=4,
            num_activated_experts=2,
            axes_dims_rope=(8, 4, 4),
            max_resolution=(8, 8),
            llama_layers=[0, 1, 1, 1],
        ),
        only="blocks",
    )
    for module in network.modules():  # in evaluation mode experts have no derivatives
        if isinstance(module, MOEFeedForwardSwiGLU):
            module.training = True
    pipeline = HiDreamImagePipeline(
        scheduler=flow(shift=3.0),
        vae=autoencoder(3),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=pipelines.tokenizer(folder),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=pipelines.tokenizer(folder),
        text_encoder_3=t5(),
        tokenizer_3=tokenizer(after=END),
        text_encoder_4=encoder(lambda: LlamaForCausalLM(LlamaConfig(**DECODER))),
        tokenizer_4=tokenizer(before="<bos>"),
        transformer=network,
    )
    pipeline.default_sample_size = 8
    return pipeline


CALL["kandinsky5"] = {"height": 64, "width": 64, "max_sequence_length": 12}


def kandinsky5(folder: Path) -> Kandinsky5T2IPipeline:
    """As Kandinsky 5, text to image, whose latents have channels last."""
    network = random(
        lambda: Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            in_text_dim=WIDTH,
            in_text_dim2=WIDTH,
            time_dim=16,
            out_visual_dim=4,
            model_dim=24,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=3,
            axes_dims=(4, 4, 4),
        ),
        factor=1.5,
        only="blocks",
    )
    pooled = CLIPTextConfig(
        vocab_size=58,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,  # which the pipeline asks for
        bos_token_id=56,
        eos_token_id=57,
        pad_token_id=57,
    )
    pipeline = Kandinsky5T2IPipeline(
        transformer=network,
        vae=autoencoder(3),
        text_encoder=qwen_vision_language(),
        tokenizer=sighted_processor(),
        text_encoder_2=encoder(lambda: CLIPTextModel(pooled)),
        tokenizer_2=pipelines.tokenizer(folder),
        scheduler=flow(shift=3.0),
    )
    pipeline.resolutions = [(64, 64)]
    pipeline.prompt_template_encode_start_idx = 20
    return pipeline


BUILDERS: dict[str, Callable[[Path], DiffusionPipeline]] = {
    "Flux Kontext": flux_kontext,
    "Flux Fill": flux_fill,
    "Flux, ControlNet": flux_controlnet,
    "Qwen-Image Edit": qwen_image_edit,
    "Qwen-Image Edit Plus": qwen_image_edit_plus,
    "Kolors": kolors,
    "Kandinsky 3": kandinsky3,
    "DeepFloyd IF": deepfloyd,
    "Ovis-Image": ovis_image,
    "Bria": bria,
    "Mochi": mochi,
    "Wan, image to video": wan_image_to_video,
    "HiDream": hidream,
    "Kandinsky 5": kandinsky5,
}
