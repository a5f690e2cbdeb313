"""Which weight of the loaded model a LoRA's module name means.

The names come from ComfyUI's own key maps, so every family that it knows works here, plus the spellings that those maps lack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import comfy.lora
import torch

from ...lora_math import family

Shape = tuple[int, ...]
Key = str | tuple  # a state-dict key, or (key, (axis, start, length)[, row map]) for a part of a weight


@dataclass(frozen=True)
class Target:
    """One weight, or a slice of one. ``patch_key`` is what ``ModelPatcher.add_patches`` takes; ``shape`` that of the slice."""

    patch_key: Key
    shape: Shape

    @property
    def key(self) -> str:
        return self.patch_key if isinstance(self.patch_key, str) else self.patch_key[0]

    @property
    def rows(self) -> Callable | None:
        """The reordering that ComfyUI will apply to the delta, if any."""
        return self.patch_key[2] if isinstance(self.patch_key, tuple) and len(self.patch_key) > 2 else None


@dataclass(frozen=True, eq=False)
class Targets:
    """Every name that a LoRA may call this model's weights by. Holds no reference to the model."""

    names: Mapping[str, Key]
    aliases: Mapping[str, Key]
    shapes: Mapping[str, Shape]
    family: str | None

    def find(self, module: str, parameter: str) -> Target | None:
        """The weight or bias that ``module`` means, or None when this model has none of that name."""
        key = self.names.get(module) or self.aliases.get(module)
        if key is None:
            return None
        if parameter == "bias":
            key = _bias(key)
        name = key if isinstance(key, str) else key[0]
        shape = self.shapes.get(name)
        if shape is None:
            return None
        offset = key[1] if isinstance(key, tuple) else None
        if offset is not None:
            axis, start, length = offset
            if axis >= len(shape) or start + length > shape[axis]:
                return None
            shape = (*shape[:axis], length, *shape[axis + 1 :])
        return Target(key, shape)

    def knows_only_as_alias(self, module: str) -> bool:
        """Whether ComfyUI's own loader would not find this name."""
        return module not in self.names and module in self.aliases


_known: WeakKeyDictionary[torch.nn.Module, Targets] = WeakKeyDictionary()


def model_targets(model) -> Targets:
    """Targets of a MODEL (a ModelPatcher). Built once for a loaded model, for all its clones."""
    return _targets(model, model.model, comfy.lora.model_lora_keys_unet, _model_family(model))


def clip_targets(clip) -> Targets:
    """Targets of a CLIP. Built once for a loaded set of text encoders, for all its clones."""
    return _targets(clip.patcher, clip.cond_stage_model, comfy.lora.model_lora_keys_clip, None)


def _targets(patcher, module: torch.nn.Module, core_names: Callable, family_name: str | None) -> Targets:
    found = _known.get(module)
    if found is None:
        names = core_names(module, {})
        shapes = {key: _shape(weight) for key, weight in module.state_dict().items()}
        # A padding LoRA that is applied right now has widened the live weight: the backup has the model's own shape.
        shapes.update((key, _shape(saved.weight)) for key, saved in patcher.backup.items())
        found = _known[module] = Targets(names, _aliases(names), shapes, family_name)
    return found


def _shape(weight) -> Shape:
    # GGUF weights are packed bytes that carry the real shape beside them.
    return tuple(getattr(weight, "tensor_shape", weight.shape))


def _aliases(names: Mapping[str, Key]) -> dict[str, Key]:
    """Spellings in circulation that ComfyUI's maps lack."""
    aliases: dict[str, Key] = {}
    for name, key in names.items():
        if ".processor.to_" in name:  # diffusers since 0.22 writes attn1.to_q, not attn1.processor.to_q
            plain = name.replace(".processor.to_", ".to_")
            aliases[plain] = key
            if plain.endswith(".to_out"):
                aliases[plain + ".0"] = key
        elif name.startswith("text_encoder") and ".text_model.encoder." in name:  # transformers 5 dropped the level
            aliases[name.replace(".text_model.encoder.", ".encoder.", 1)] = key
    for name in [*names, *aliases]:  # PEFT's own save_pretrained
        head, _, tail = name.partition(".")
        if tail and head in ("unet", "transformer", "text_encoder", "text_encoder_2"):
            aliases.setdefault(f"{head}.base_model.model.{tail}", names.get(name) or aliases[name])
            if head in ("unet", "transformer"):
                aliases.setdefault(f"base_model.model.{tail}", names.get(name) or aliases[name])
    return aliases


def _bias(key: Key) -> Key:
    name = key if isinstance(key, str) else key[0]
    bias = name[: -len("weight")] + "bias" if name.endswith(".weight") else name
    if isinstance(key, str):
        return bias
    # The rows of a fused weight are the entries of its bias; columns have none of their own.
    return (bias, *key[1:]) if key[1] is None or key[1][0] == 0 else bias


_FAMILIES = {
    "SD15": family.SD15,
    "SD15_instructpix2pix": family.SD15,
    "LotusD": family.SD2,
    "SD20": family.SD2,
    "SD21UnclipL": family.SD2,
    "SD21UnclipH": family.SD2,
    "SDXL": family.SDXL,
    "SDXL_instructpix2pix": family.SDXL,
    "SSD1B": family.SDXL,
    "Segmind_Vega": family.SDXL,
    "KOALA_700M": family.SDXL,
    "KOALA_1B": family.SDXL,
    "SDXLRefiner": family.REFINER,
    "SD3": family.SD3,
    "Flux": family.FLUX,
    "FluxInpaint": family.FLUX,
    "FluxSchnell": family.FLUX,
    "LongCatImage": "LongCat-Image",
    "Flux2": family.FLUX2,
    "Chroma": family.CHROMA,
    "ChromaRadiance": family.CHROMA,
    "QwenImage": family.QWEN,
    "ZImage": family.Z_IMAGE,
    "ZImagePixelSpace": family.Z_IMAGE,
    "Lumina2": family.LUMINA,
    "LTXV": family.LTXV,
    "LTXAV": family.LTX2,
    "HiDream": family.HIDREAM,
    "AuraFlow": family.AURAFLOW,
    "PixArtAlpha": family.PIXART,
    "PixArtSigma": family.PIXART,
    "GenmoMochi": family.MOCHI,
    "CosmosT2IPredict2": family.PREDICT2,
    "CosmosI2VPredict2": family.PREDICT2,
    "Anima": family.ANIMA,
    "Krea2": family.KREA2,
    "ACEStep": family.ACE_STEP,
    "ACEStep15": family.ACE_STEP,
}


def _model_family(model) -> str | None:
    name = type(getattr(model.model, "model_config", None)).__name__
    if name in _FAMILIES:
        return _FAMILIES[name]
    if name.startswith(("WAN21", "WAN22")):
        return family.WAN
    if name.startswith("HunyuanVideo"):
        return family.HUNYUAN_VIDEO
    return name if name not in ("NoneType", "BASE") else None
