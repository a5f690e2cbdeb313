"""Which model family a LoRA was trained for, from module names and widths first and the header second.

A wrong family would refuse a good file, so whatever does not settle it stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from .names import is_text_encoder, model_body, text_name
from .reading.state_dict import Entry

SD15, SD2, SDXL, REFINER, SD3 = "SD1.5", "SD2", "SDXL", "SDXL refiner", "SD3"
FLUX, FLUX2, CHROMA, QWEN, WAN, HUNYUAN_VIDEO = "FLUX.1", "FLUX.2", "Chroma", "Qwen-Image", "Wan", "HunyuanVideo"
Z_IMAGE, LUMINA, LTXV, LTX2, HIDREAM, AURAFLOW = "Z-Image", "Lumina 2", "LTX-Video", "LTX-2", "HiDream", "AuraFlow"
HUNYUAN_IMAGE, COSMOS = "HunyuanImage", "Cosmos"
PIXART, MOCHI, PREDICT2, ANIMA, KREA2, ACE_STEP = "PixArt", "Mochi", "Cosmos Predict2", "Anima", "Krea 2", "ACE-Step"

# Families whose LoRAs are at home in each other's models, layer by layer.
RELATIVES = ({FLUX, CHROMA}, {PREDICT2, ANIMA}, {Z_IMAGE, LUMINA}, {LTXV, LTX2})

__all__ = ["RELATIVES", "Trained", "candidates", "component", "detect", "is_text_encoder", "trained_parts"]

Guess = str | tuple[str, ...]  # a family, or those that remain possible; () when nothing is known
Shapes = Mapping[str, tuple[int, int] | None]  # layer body -> (out, in * kernel)


def component(module: str) -> str:
    """The part of the pipeline that a module name speaks of: "model" or a text encoder's name."""
    name = text_name(module)
    if name is None:
        return "model"
    if name.encoder is not None:
        return name.encoder
    return "text encoder" if name.number is None else f"text encoder {name.number}"


@dataclass(frozen=True)
class Trained:
    """What a file changes. text_encoders: by the file's names for them; convolutions: with a kernel larger than 1; norms: norm layers."""

    model: bool
    text_encoders: tuple[str, ...]
    convolutions: bool
    norms: bool


def trained_parts(entries: Iterable[Entry]) -> Trained:
    """Which parts of the pipeline a file was trained on."""
    entries = tuple(entries)
    parts = dict.fromkeys(component(entry.module) for entry in entries)
    return Trained(
        "model" in parts,
        tuple(part for part in parts if part != "model"),
        any(_has_kernel(entry.adapter.record()) for entry in entries),
        any(re.search(r"norm", entry.module) and _is_vector(entry) for entry in entries if entry.parameter == "weight"),
    )


def _has_kernel(value) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 2 and prod(value.shape[2:]) > 1 and value.numel() > prod(value.shape[2:])
    return isinstance(value, tuple) and any(_has_kernel(item) for item in value)


def _is_vector(entry: Entry) -> bool:
    return any(isinstance(value, Tensor) and value.ndim == 1 for value in entry.adapter.record())


def detect(entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> str | None:
    """The family, or None when names, widths and header do not settle it."""
    found = candidates(entries, metadata)
    return found[0] if len(found) == 1 else None


def candidates(entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The families that remain possible, the most common one first; empty when nothing is known.

    Names and widths come first. Only where they leave something open does the header tell, and a header that says something else than
    they allow is a stranger's.
    """
    shapes: dict[str, tuple[int, int] | None] = {}
    encoders: set[int | None] = set()
    for entry in entries:
        name = text_name(entry.module)
        if name is not None:
            encoders.add(name.number)
        elif entry.parameter == "weight":
            shapes[model_body(entry.module)] = entry.adapter.matrix_shape
    if not shapes:
        return ()
    found = _from_names(shapes, 2 in encoders)
    header = _from_header(metadata or {})
    if isinstance(found, str):
        return (found,)
    if header is not None and (not found or header in found):
        return (header,)
    return found


def _from_names(shapes: Shapes, second_encoder: bool) -> Guess:
    kinds = {_NUMBER.sub("_0_", body) for body in shapes}  # a file repeats its few kinds of layer in every block
    if any(_UNET.match(kind) for kind in kinds):
        return _unet(shapes, second_encoder)
    for pattern, guess in _BY_NAME:
        if any(pattern.search(kind) for kind in kinds):
            return guess
    for pattern, guess_by_width in _BY_LAYER:
        if any(pattern.match(kind) for kind in kinds):
            return guess_by_width(shapes)
    return ()


_NUMBER = re.compile(r"_\d+_")
# A layer that only one family has. In order: the first hit decides.
_BY_NAME: tuple[tuple[re.Pattern, Guess], ...] = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (
            r"audio_attn1|audio_ff_|audio_to_video_attn|video_to_audio_attn|^av_(ca|cross_attn)_|^audio_(adaln_single|time_embed)",
            LTX2,
        ),
        (r"^(double|single)_stream_blocks_\d", HIDREAM),
        (r"^double_blocks_\d+_attn_(img|txt)_attn_", ()),  # JoyImage
        (r"^joint_blocks_\d", SD3),
        (
            r"^joint_transformer_blocks_\d|^(double|single)_layers_\d+_(attn_w\d|mlp)|^single_transformer_blocks_\d+_ff_",
            AURAFLOW,
        ),
        (r"^(llm_adapter|text_conditioner)_blocks_\d", ANIMA),
        (
            r"^txtfusion_|^txtmlp_|^text_fusion_|^blocks_\d+_attn_w[qkvo]$|^transformer_blocks_\d+_(attn_to_gate|ff_(gate|up|down))$",
            KREA2,
        ),
        (
            r"individual_token_refiner|^context_embedder_(token_refiner|\d+)_|^single_blocks_\d+_modulation_linear$",
            HUNYUAN_VIDEO,
        ),
        (
            r"^blocks_\d+_(attn_(qkv|proj)_[xy]|mlp_[xy]_w\d|mod_[xy])$|^transformer_blocks_\d+_attn1_(add_[qkv]_proj|to_add_out)$",
            MOCHI,
        ),
        (r"^(vace_)?blocks_\d+_(self_attn|cross_attn)_[qkvo]$|^blocks_\d+_(cross_attn_[kv]_img|ffn_[02])$", WAN),
        (r"^(vace_)?blocks_\d+_(attn[12]_(to_[qkv]|to_out_0|add_[kv]_proj)|ffn_net_\d)", WAN),
        (r"^blocks_block\d+_blocks_\d+_", COSMOS),
        (r"^blocks_\d+_(attn_qkv|cross_attn_(q|kv)_linear)$", PIXART),
        (r"^(double_stream_modulation_(img|txt)|single_stream_modulation)_|attn_to_qkv_mlp_proj$", FLUX2),
        (r"^single_transformer_blocks_\d+_attn_to_out$|^transformer_blocks_\d+_ff(_context)?_linear_(in|out)$", FLUX2),
        (r"^distilled_guidance_layer_", CHROMA),
        (
            r"lyric_encoder|speaker_embedder|genre_embedder|^transformer_blocks_\d+_(cross_attn_|ff_(inverted|depth|point)_conv)",
            ACE_STEP,
        ),
        (r"^layers_\d+_(self_attn_to_qkv|cross_attn_to_kv)$", ()),  # Stable Audio
        (r"^(decoder_)?layers_\d+_(self|cross)_attn_(to_[qkv]|[qkv]_proj)$", ACE_STEP),
    )
)

_UNET = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks)_")
_CONTEXT = re.compile(r"attn2_to_[kv]$")
_UNET_CONTEXT = {768: SD15, 1024: SD2, 2048: SDXL, 1280: REFINER}


def _unet(shapes: Shapes, second_encoder: bool) -> Guess:
    if any(re.search(r"time_stack|time_mixer|temporal", body) for body in shapes):
        return ()  # video models on the same skeleton
    families = {_UNET_CONTEXT[width] for width in _widths(shapes, _CONTEXT) if width in _UNET_CONTEXT}
    if len(families) == 1:
        return families.pop()
    if families:
        return ()
    if second_encoder or any(re.search(r"transformer_blocks_[4-9]_", body) for body in shapes):
        return SDXL
    if any(
        re.match(r"(down_blocks_0_attentions|input_blocks_[12]_1|up_blocks_3_attentions)_", body) for body in shapes
    ):
        return (SD15, SD2)  # the only ones with attention at full size
    return (SD15, SD2, SDXL, REFINER)


def _flux(shapes: Shapes) -> Guess:
    """``double_blocks`` and ``single_blocks``, or diffusers' names for them."""
    widths = _widths(shapes, _FLUX_INPUTS)
    if widths & {4096, 6144}:
        return FLUX2
    if 2048 in widths:
        return HUNYUAN_VIDEO  # 1.5
    if 3584 in widths:
        return HUNYUAN_IMAGE
    if 1024 in widths:
        return ()  # Hunyuan3D
    ratios = {
        (match.group(1), shape[0] // shape[1])
        for body, shape in shapes.items()
        if shape and shape[1] and (match := re.search(r"_(linear1|img_mlp_0|txt_mlp_0)$", body))
    }
    if ratios & {("linear1", 9), ("img_mlp_0", 6), ("txt_mlp_0", 6)}:
        return FLUX2  # gated MLPs
    double, single = (_depth(shapes, rf"({name}_blocks|{other}_blocks)") for name, other in _FLUX_BLOCKS)
    if double > 19 or single > 38:
        return HUNYUAN_VIDEO
    if any(
        re.search(r"_(img_mod|txt_mod|modulation)_lin$|_norm1(_context)?_linear$|_blocks_\d+_norm_linear$", body)
        for body in shapes
    ):
        return FLUX
    if ratios or any(body.endswith(("_proj_mlp", "_ff_net_0_proj")) for body in shapes):
        return (FLUX, CHROMA)
    # Attention alone: a FLUX.2 of the same width has 5 and 20 blocks.
    return (FLUX, CHROMA) if double > 5 or single > 20 else (FLUX, CHROMA, FLUX2)


_FLUX_INPUTS = re.compile(
    r"_(img_attn_(qkv|proj|[qkv])|attn_(to|add)_[qkv](_proj)?|(img_)?mlp_0|linear1|proj_mlp|ff_net_0_proj)$"
)
_FLUX_BLOCKS = (("^double", "^transformer"), ("^single", "^single_transformer"))


def _nextdit(shapes: Shapes) -> Guess:
    widths = _widths(shapes, re.compile(r"(attention|attn)_(qkv|out|to_[qkv]|to_out_0)$|feed_forward_(w|linear_)[13]$"))
    families = {Z_IMAGE: 3840 in widths, LUMINA: 2304 in widths}
    return next((family for family, fits in families.items() if fits), ())


def _joint_blocks(shapes: Shapes) -> Guess:
    """``transformer_blocks.N`` with a second stream: diffusers' name for SD3, Qwen-Image, FLUX.1, HunyuanVideo and more."""
    widths = _widths(shapes, re.compile(r"attn_(add_[qkv]_proj|to_[qkv])$"))
    mlps = _widths(shapes, re.compile(r"(img|txt)_mlp_net_0_proj$|(img|txt)_mod_1$"))
    if mlps:
        return QWEN if 3072 in mlps and _depth(shapes, "^transformer_blocks") > 20 else ()
    if 6144 in widths:
        narrow = any(shape and shape[0] < shape[1] and body.endswith("_attn_to_k") for body, shape in shapes.items())
        return KREA2 if narrow or _depth(shapes, "^transformer_blocks") > 8 else (KREA2, FLUX2)
    if widths & {1536, 2432}:
        return SD3
    if 2048 in widths:
        return HUNYUAN_VIDEO  # 1.5
    if _depth(shapes, "^transformer_blocks") > 20:
        return QWEN if 3072 in widths else ()
    found = _flux(shapes)
    # Few blocks and attention alone may be Qwen-Image's as well.
    return (
        found if isinstance(found, str) or any("single" in body or "_ff" in body for body in shapes) else (*found, QWEN)
    )


def _plain_blocks(shapes: Shapes) -> Guess:
    """``transformer_blocks.N`` with self and cross attention: PixArt, LTX-Video, Cosmos."""
    widths = _widths(shapes, re.compile(r"attn1_(to_[qkv]|to_out_0)$"))
    context = _widths(shapes, _CONTEXT)
    if any(re.search(r"_norm[123]_linear_[12]$", body) for body in shapes) or 1024 in context:
        return COSMOS if 4096 in widths else (PREDICT2, ANIMA) if 2048 in widths else (COSMOS, PREDICT2)
    if 1152 in widths:
        return PIXART
    if 2048 in widths:
        return LTXV if 2048 in context else (LTXV, PREDICT2, ANIMA)
    return (LTXV, LTX2) if 4096 in context else (LTXV, LTX2, COSMOS) if 4096 in widths else ()


def _predict2(shapes: Shapes) -> Guess:
    widths = _widths(shapes, re.compile(r"self_attn_[qkv]_proj$|mlp_layer1$|cross_attn_q_proj$"))
    return PREDICT2 if 5120 in widths else (PREDICT2, ANIMA)


_BY_LAYER = tuple(
    (re.compile(pattern), guess)
    for pattern, guess in (
        (r"(double|single)_blocks_\d|single_transformer_blocks_\d", _flux),
        (r"(layers|noise_refiner|context_refiner)_\d+_(attention|attn|feed_forward|adaLN_modulation)_", _nextdit),
        (r"transformer_blocks_\d+_(attn_|ff_context_|(img|txt)_mlp_|(img|txt)_mod_|norm1_context_)", _joint_blocks),
        (r"transformer_blocks_\d+_attn[12]_", _plain_blocks),
        (r"blocks_\d+_((self|cross)_attn_(\w_proj|output_proj)|adaln_modulation_|mlp_layer\d)", _predict2),
    )
)


def _widths(shapes: Shapes, layers: re.Pattern) -> set[int]:
    """Inputs of the layers with these names."""
    return {shape[1] for body, shape in shapes.items() if shape and layers.search(body)}


def _depth(shapes: Shapes, blocks: str) -> int:
    """One more than the highest number of these blocks, 0 where there are none."""
    numbers = (re.match(rf"{blocks}_(\d+)_", body) for body in shapes)
    return max((int(match.groups()[-1]) + 1 for match in numbers if match), default=0)


_HEADER = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"stable-diffusion-xl-v1-refiner|^sdxl-refiner", REFINER),
        (r"stable-diffusion-xl-v1|^sdxl", SDXL),
        (r"stable-diffusion-v1|^sd-?v?1", SD15),
        (r"stable-diffusion-v2|^sd-?v?2", SD2),
        (r"stable-diffusion-3|stable-diffusion-v3|^sd-?3", SD3),
        (r"flux[.-]?2", FLUX2),
        (r"^chroma", CHROMA),
        (r"flux[.-]?1|^flux", FLUX),
        (r"^lumina", LUMINA),
        (r"^z-?image", Z_IMAGE),
        (r"^qwen-?image", QWEN),
        (r"^wan", WAN),
        (r"^hunyuan-?image", HUNYUAN_IMAGE),
        (r"^hunyuan-?video|^framepack", HUNYUAN_VIDEO),
        (r"^anima", ANIMA),
        (r"^krea-?2", KREA2),
        (r"^ltx-?v?-?2", LTX2),
        (r"^ltx", LTXV),
        (r"^hidream(?!-o1)", HIDREAM),
        (r"^aura-?flow", AURAFLOW),
        (r"^pixart", PIXART),
    )
)


def _from_header(metadata: Mapping[str, str]) -> str | None:
    text = (
        str(metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or "")
        .lower()
        .replace("_", "-")
    )
    return next((family for pattern, family in _HEADER if pattern.search(text)), None) if text else None
