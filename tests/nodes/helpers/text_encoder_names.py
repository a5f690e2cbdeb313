"""ComfyUI's own sets of text encoders on the meta device, and the names that trainers give their layers.

What a name must lead to is written down here encoder by encoder; within an encoder ComfyUI keeps the names of transformers.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import comfy.model_patcher
import comfy.sd
import torch

from strata.tests.nodes.helpers.diffusers_names import Rows

UP, PEFT, OLD = ".lora_up.weight", ".lora_B.weight", ".lora_linear_layer.up.weight"


class Encoder(NamedTuple):
    """kohya, diffusers: the trainer's prefix for this encoder; key: ComfyUI's."""

    kohya: str
    diffusers: str
    key: str


CLIP_L = Encoder("lora_te1_", "text_encoder.", "clip_l.transformer.")
CLIP_G = Encoder("lora_te2_", "text_encoder_2.", "clip_g.transformer.")
SETS: dict[str, tuple[str, str, tuple[Encoder, ...]]] = {
    "SD1.5": ("sd1_clip", "SD1ClipModel", (Encoder("lora_te_", "text_encoder.", "clip_l.transformer."),)),
    "SD2": ("text_encoders.sd2_clip", "SD2ClipModel", (Encoder("lora_te_", "text_encoder.", "clip_h.transformer."),)),
    "SDXL": ("sdxl_clip", "SDXLClipModel", (CLIP_L, CLIP_G)),
    "SDXL refiner": (
        "sdxl_clip",
        "SDXLRefinerClipModel",
        (Encoder("lora_te_", "text_encoder.", "clip_g.transformer."),),
    ),
    "SD3": (
        "text_encoders.sd3_clip",
        "SD3ClipModel",
        (CLIP_L, CLIP_G, Encoder("lora_te3_", "text_encoder_3.", "t5xxl.transformer.")),
    ),
    "FLUX.1 (OneTrainer)": (
        "text_encoders.flux",
        "FluxClipModel",
        (CLIP_L, Encoder("lora_te2_", "text_encoder_2.", "t5xxl.transformer.")),
    ),
    "FLUX.1 (kohya)": (
        "text_encoders.flux",
        "FluxClipModel",
        (CLIP_L, Encoder("lora_te3_", "text_encoder_2.", "t5xxl.transformer.")),
    ),
    "Chroma": (
        "text_encoders.pixart_t5",
        "PixArtT5XXL",
        (Encoder("lora_te1_", "text_encoder.", "t5xxl.transformer."),),
    ),
    "Wan": ("text_encoders.wan", "WanT5Model", (Encoder("lora_te_", "text_encoder.", "umt5xxl.transformer."),)),
    "HunyuanVideo": (
        "text_encoders.hunyuan_video",
        "HunyuanVideoClipModel",
        (
            Encoder("lora_te1_", "text_encoder.", "llama.transformer."),
            Encoder("lora_te2_", "text_encoder_2.", "clip_l.transformer."),
        ),
    ),
    "HiDream": (
        "text_encoders.hidream",
        "HiDreamTEModel",
        (
            CLIP_L,
            CLIP_G,
            Encoder("lora_te3_", "text_encoder_3.", "t5xxl.transformer."),
            Encoder("lora_te4_", "text_encoder_4.", "llama.transformer."),
        ),
    ),
    "Z-Image": (
        "text_encoders.z_image",
        "ZImageTEModel",
        (Encoder("lora_te_", "text_encoder.", "qwen3_4b.transformer."),),
    ),
    "Lumina 2": (
        "text_encoders.lumina2",
        "LuminaModel",
        (Encoder("lora_te_", "text_encoder.", "gemma2_2b.transformer."),),
    ),
    "Qwen-Image": (
        "text_encoders.qwen_image",
        "QwenImageTEModel",
        (Encoder("lora_te_", "text_encoder.", "qwen25_7b.transformer."),),
    ),
    "Anima": ("text_encoders.anima", "AnimaTEModel", (Encoder("lora_te_", "text_encoder.", "qwen3_06b.transformer."),)),
}
_DTYPES = {"HiDream": ("dtype_t5", "dtype_llama"), "SD3": ("dtype_t5",), "HunyuanVideo": ("dtype_llama",)}


@cache
def clip(name: str):
    """A comfy.sd.CLIP without weights."""
    module, cls, _ = SETS[name]
    dtypes = _DTYPES.get(name, ("dtype_t5",) if name.startswith("FLUX") else ())
    build = getattr(importlib.import_module(f"comfy.{module}"), cls)
    found = comfy.sd.CLIP(no_init=True)
    found.cond_stage_model = build(
        device=torch.device("meta"), dtype=torch.float16, **dict.fromkeys(dtypes, torch.float16)
    )
    found.patcher = comfy.model_patcher.ModelPatcher(found.cond_stage_model, torch.device("cpu"), torch.device("cpu"))
    return found


def _kohya(encoder: Encoder, layer: str) -> str:
    return encoder.kohya + layer.replace(".", "_")


def _bare(layer: str) -> str:
    return layer.removeprefix("text_model.").removeprefix("model.")


# title, how a module is called, suffix of ``up``, whether one file holds all encoders, which layers it can be for
_CLIP, _ANY, _LLM, _ALONE = r"text_model\.|text_projection", "", r"model\.", r"(text_model\.)?encoder\."
NAMINGS: tuple[tuple[str, Callable[[Encoder, str], str], str, bool, str], ...] = (
    ("kohya, OneTrainer: `lora_te1_X`", _kohya, UP, True, _ANY),
    ("kohya under transformers 5: `lora_te1_encoder_X`", lambda e, layer: _kohya(e, _bare(layer)), UP, True, _CLIP),
    ("diffusers: `text_encoder.X.lora_linear_layer`", lambda e, layer: e.diffusers + layer, OLD, True, _CLIP),
    ("diffusers: `text_encoder.X.lora_A`", lambda e, layer: e.diffusers + layer, PEFT, True, _ANY),
    (
        "diffusers under transformers 5: `text_encoder.encoder.X`",
        lambda e, layer: e.diffusers + _bare(layer),
        PEFT,
        True,
        _CLIP,
    ),
    (
        "PEFT: `text_encoder.base_model.model.X`",
        lambda e, layer: f"{e.diffusers}base_model.model.{layer}",
        PEFT,
        True,
        _ANY,
    ),
    (
        "ComfyUI, OneTrainer COMFY: `text_encoders.name.transformer.X`",
        lambda e, layer: f"text_encoders.{e.key}{layer}",
        PEFT,
        True,
        _ANY,
    ),
    ("OneTrainer, diffusers: `text_encoder.layers.X`", lambda e, layer: e.diffusers + _bare(layer), PEFT, True, _LLM),
    (
        "transformers 5, vision-language: `text_encoder.model.language_model.X`",
        lambda e, layer: f"{e.diffusers}model.language_model.{_bare(layer)}",
        PEFT,
        True,
        _LLM,
    ),
    ("PEFT, one encoder: `base_model.model.X`", lambda e, layer: f"base_model.model.{layer}", PEFT, False, _ALONE),
    (
        "PEFT, one encoder under transformers 5: `base_model.model.encoder.X`",
        lambda e, layer: f"base_model.model.{_bare(layer)}",
        PEFT,
        False,
        _ALONE,
    ),
    ("LyCORIS, one encoder: `lycoris_X`", lambda e, layer: "lycoris_" + layer.replace(".", "_"), UP, False, _ALONE),
)


def layers(name: str, encoder: Encoder) -> dict[str, str]:
    """Layer as transformers names it -> ComfyUI's key, for every matrix."""
    weights = clip(name).cond_stage_model.state_dict()
    return {
        key[len(encoder.key) : -len(".weight")]: key
        for key, value in weights.items()
        if key.startswith(encoder.key) and key.endswith(".weight") and value.ndim == 2
    }


def text_files(name: str, make: Callable) -> Iterator:
    """``make(title, {module: Rows}, suffix of up)`` for every naming of a set of encoders."""
    shapes = {key: value.shape for key, value in clip(name).cond_stage_model.state_dict().items()}
    for title, naming, suffix, together, kind in NAMINGS:
        each = []
        for encoder in SETS[name][2]:
            chosen = {layer: key for layer, key in layers(name, encoder).items() if re.match(kind, layer)}
            each.append(
                {naming(encoder, layer): Rows(key, torch.arange(shapes[key][0])) for layer, key in chosen.items()}
            )
        for modules in [{m: rows for some in each for m, rows in some.items()}] if together else each:
            if modules:
                yield make(title, modules, suffix)
