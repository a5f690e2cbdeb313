"""Which model family a LoRA was trained for, from module names and widths first and the header second.

A wrong family would refuse a good file, so whatever does not settle it stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .state_dict import Entry

SD15, SD2, SDXL, REFINER, SD3 = "SD1.5", "SD2", "SDXL", "SDXL refiner", "SD3"
FLUX, FLUX2, CHROMA, QWEN, WAN, HUNYUAN_VIDEO = "FLUX.1", "FLUX.2", "Chroma", "Qwen-Image", "Wan", "HunyuanVideo"
Z_IMAGE, LUMINA, LTXV, LTX2, HIDREAM, AURAFLOW = "Z-Image", "Lumina 2", "LTX-Video", "LTX-2", "HiDream", "AuraFlow"
PIXART, MOCHI, PREDICT2, ANIMA, KREA2, ACE_STEP = "PixArt", "Mochi", "Cosmos Predict2", "Anima", "Krea 2", "ACE-Step"

# Families whose LoRAs are at home in each other's models, layer by layer.
RELATIVES = ({FLUX, CHROMA}, {PREDICT2, ANIMA}, {Z_IMAGE, LUMINA}, {LTXV, LTX2})

_PREFIX = re.compile(
    r"^(base_model[._]model[._])?(lora_unet_+|lora_transformer_|lycoris_|diffusion_model[._]|transformer[._](?!blocks[._])|unet[._])*"
)
_TEXT = re.compile(
    r"^(lora_te\d?_|text_encoders?[._]|text_encoder_\d[._]|lora_prior_te_|te\d?[._]|text_model[._]|conditioner[._])"
)
_TEXT_NAMES = {
    "lora_te": "text encoder",
    "lora_te1": "text encoder 1",
    "lora_te2": "text encoder 2",
    "lora_te3": "text encoder 3",
}

# A name that only one family has. In order: the first hit decides.
_BY_NAME = (
    (re.compile(r"audio_attn1|audio_to_video_attn|video_to_audio_attn"), LTX2),
    (re.compile(r"(^|_)double_stream_blocks_\d|single_stream_blocks_\d"), HIDREAM),
    (re.compile(r"(^|_)joint_blocks_\d"), SD3),
    (re.compile(r"joint_transformer_blocks_\d|(^|_)double_layers_\d"), AURAFLOW),
    (re.compile(r"llm_adapter_blocks_\d"), ANIMA),
    (re.compile(r"^txtfusion_|^txtmlp"), KREA2),
    (
        re.compile(r"individual_token_refiner|double_blocks_\d+_(img|txt)_mlp_fc|single_blocks_\d+_modulation_linear"),
        HUNYUAN_VIDEO,
    ),
    (re.compile(r"(^|_)blocks_\d+_attn_qkv_[xy]$"), MOCHI),
    (re.compile(r"^blocks_\d+_(self_attn|cross_attn)_[qkvo]$"), WAN),
    (re.compile(r"^blocks_\d+_(self_attn|cross_attn)_[qkv]_proj$|^blocks_\d+_adaln_modulation"), PREDICT2),
    (re.compile(r"transformer_blocks_\d+_(img|txt)_(mod_1|mlp_net)"), QWEN),
    (re.compile(r"single_transformer_blocks_\d+_attn_to_qkv_mlp_proj"), FLUX2),
    (re.compile(r"lyric_encoder|speaker_embedder|genre_embedder"), ACE_STEP),
)
_UNET = re.compile(r"^(down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks)_")
_CONTEXT = re.compile(r"attn2(_processor)?_to_[kv]$")
_UNET_CONTEXT = {768: SD15, 1024: SD2, 2048: SDXL, 1280: REFINER}


def is_text_encoder(module: str) -> bool:
    """Whether a module name, as a file has it, is a text encoder's."""
    return bool(_TEXT.match(module))


def component(module: str) -> str:
    """The part of the pipeline that a module name speaks of: "model" or a text encoder's name."""
    if not is_text_encoder(module):
        return "model"
    head = re.match(r"(lora_te\d?)_|([^.]+)", module)
    name = head.group(1) or head.group(2)
    if name == "text_encoders":
        return module.split(".")[1] if "." in module else "text encoder"
    return _TEXT_NAMES.get(name, name.replace("_", " "))


def detect(entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> str | None:
    """The family, or None when names, widths and header do not settle it."""
    shapes: dict[str, tuple[int, int] | None] = {}
    second_encoder = False
    for entry in entries:
        if entry.parameter != "weight":
            continue
        if is_text_encoder(entry.module):
            second_encoder |= entry.module.startswith(("lora_te2_", "text_encoder_2."))
            continue
        shapes[_PREFIX.sub("", entry.module, count=1).replace(".", "_")] = entry.adapter.matrix_shape
    by_header = _from_header(metadata or {})
    found = _from_names(shapes, second_encoder)
    if found == FLUX and by_header == CHROMA:
        return CHROMA  # the same names and widths: only the header can tell
    return found or (by_header if shapes else None)


def _from_names(shapes: Mapping[str, tuple[int, int] | None], second_encoder: bool) -> str | None:
    for pattern, family in _BY_NAME:
        if any(pattern.search(name) for name in shapes):
            return family
    if any(_UNET.match(name) for name in shapes):
        return _unet(shapes, second_encoder)
    if any(re.match(r"(double|single)_blocks_\d", name) for name in shapes):
        return _flux(shapes)
    if any(re.match(r"single_transformer_blocks_\d", name) for name in shapes):
        return FLUX
    widths = _widths(shapes, r"attention_(qkv|out|to_q|to_out_0|wq)$|feed_forward_w[123]$")
    if any(re.match(r"layers_\d+_(attention|feed_forward)", name) for name in shapes):
        return {3840: Z_IMAGE, 2304: LUMINA}.get(min(widths, default=0))
    return _transformer_blocks(shapes)


def _unet(shapes: Mapping[str, tuple[int, int] | None], second_encoder: bool) -> str | None:
    context = {shape[1] for name, shape in shapes.items() if shape and _CONTEXT.search(name)}
    families = {_UNET_CONTEXT[n] for n in context if n in _UNET_CONTEXT}
    if len(families) == 1:
        return families.pop()
    if not families and (second_encoder or any(re.search(r"transformer_blocks_[2-9]_", name) for name in shapes)):
        return SDXL
    return None


def _flux(shapes: Mapping[str, tuple[int, int] | None]) -> str | None:
    ratios = {
        (match.group(1), shape[0] // shape[1])
        for name, shape in shapes.items()
        if shape and (match := re.search(r"_(linear1|img_mlp_0|txt_mlp_0)$", name))
    }
    if ratios & {("linear1", 9), ("img_mlp_0", 6), ("txt_mlp_0", 6)}:
        return FLUX2  # gated MLPs and one modulation for all blocks
    if any(re.match(r"double_blocks_(19|[2-9]\d)_|single_blocks_(3[89]|[4-9]\d)_", name) for name in shapes):
        return None  # deeper than FLUX.1: HunyuanVideo or FLUX.2, and these names do not say which
    return FLUX


def _transformer_blocks(shapes: Mapping[str, tuple[int, int] | None]) -> str | None:
    """Plain ``transformer_blocks.N``: diffusers' name for half of all families. Widths and depth tell them apart."""
    if any(re.match(r"transformer_blocks_\d+_(attn_add_[qkv]_proj|ff_context)", name) for name in shapes):
        widths = _widths(shapes, r"attn_(add_[qkv]_proj|to_[qkv])$")
        if widths & {1536, 2432}:
            return SD3
        if 3072 in widths:
            return QWEN if any(re.match(r"transformer_blocks_(19|[2-9]\d)_", name) for name in shapes) else None
        return None
    widths = _widths(shapes, r"transformer_blocks_\d+_attn1_to_[qkv]$")
    return PIXART if widths == {1152} else LTXV if widths & {2048, 4096} else None


def _widths(shapes: Mapping[str, tuple[int, int] | None], names: str) -> set[int]:
    return {shape[1] for name, shape in shapes.items() if shape and re.search(names, name)}


_HEADER = (
    (re.compile(r"stable-diffusion-xl-v1-(base|edit)"), SDXL),
    (re.compile(r"stable-diffusion-xl-v1-refiner"), REFINER),
    (re.compile(r"stable-diffusion-v1"), SD15),
    (re.compile(r"stable-diffusion-v2"), SD2),
    (re.compile(r"stable-diffusion-3|stable-diffusion-v3"), SD3),
    (re.compile(r"flux-?2"), FLUX2),
    (re.compile(r"^chroma"), CHROMA),
    (re.compile(r"flux-1|^flux"), FLUX),
    (re.compile(r"^lumina"), LUMINA),
    (re.compile(r"^z-?image"), Z_IMAGE),
    (re.compile(r"^qwen-image"), QWEN),
    (re.compile(r"^wan"), WAN),
    (re.compile(r"^hunyuan-?video"), HUNYUAN_VIDEO),
    (re.compile(r"^anima"), ANIMA),
)


def _from_header(metadata: Mapping[str, str]) -> str | None:
    text = str(metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or "").lower()
    if text.startswith("sdxl_base"):
        return SDXL
    if text.startswith("sd_v1"):
        return SD15
    return next((family for pattern, family in _HEADER if pattern.search(text)), None) if text else None
