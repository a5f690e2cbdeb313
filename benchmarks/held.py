"""What one and ten LoRAs take of memory while a model samples, beside ComfyUI's loader and its bypass loader."""

from __future__ import annotations

import gc

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch

from . import loras, models
from .machine import peak_memory
from .results import size, table

COARSE = {"fp8": torch.float8_e4m3fn, "NVFP4": None}
WAYS = ("Strata live", "Strata patch", "ComfyUI", "ComfyUI bypass")
# model, what its weights are stored in, rank, LoRAs; each model is built once.
CASES = [
    *[("SD1.5", "float16", rank, count) for rank in (16, 64) for count in (1, 10)],
    *[("FLUX", "float16", rank, count) for rank in (16, 64) for count in (1, 10)],
    *[("FLUX", stored, 64, count) for stored in COARSE for count in (1, 10)],
]


def held(quick: bool) -> str:
    """Two steps each; the LoRAs' own files are in memory before."""
    rows, built, model, whole = [], None, None, 0
    for name, stored, rank, count in CASES[:2] if quick else CASES:
        if built != (name, stored):
            comfy.model_management.unload_all_models()
            # Before the next: two do not fit a small machine.
            model = None
            gc.collect()
            built, model = (name, stored), _build(name, stored)
            whole = _stored(model) + _without(model, name)
        rows.append((name, stored, rank, count, *_row(model, name, stored, rank, count, whole)))
    return table(
        "Memory while LoRAs are in use",
        ("model", "stored in", "rank", "LoRAs", "without a LoRA", "their factors", *WAYS, "live / both"),
        rows,
        "Tensors, at most, in two steps at 8x8 latents, computed in float32. Without a LoRA: the model and the steps; the ways:",
        "beyond that. Live / both: all of it with live LoRAs, of the model, the steps and the factors in float32.",
        "Patched on a CPU, ComfyUI keeps the weights as they were beside the patched ones. Of several bypass loaders the last alone acts.",
    )


def _build(name: str, stored: str):
    if stored == "NVFP4":
        config, unet, *_ = models.MODELS[name]
        model = models.packed(config, {**unet, "dtype": torch.bfloat16}, torch.float32, models.CPU)
        return comfy.model_patcher.ModelPatcher(model, models.CPU, models.CPU)
    return models.build(name, COARSE.get(stored, torch.float16), torch.float32)


def _stored(model) -> int:
    """Bytes of its weights."""
    return sum(tensor.nbytes for tensor in model.model.state_dict().values())


def _without(model, name: str) -> int:
    run = loras.Sampler(model, name, 8)
    # The first run of a model takes more.
    run(lambda: model)
    return peak_memory(lambda: run(lambda: model))


def _row(model, name: str, stored: str, rank: int, count: int, whole: int) -> tuple:
    tensors = models.lora(model, rank)
    adapters = loras.adapters_of(model, tensors)
    factors = sum(tensor.numel() for key, tensor in tensors.items() if not key.endswith(".alpha")) * count * 4
    run = loras.Sampler(model, name, 8)
    plain = _without(model, name)
    ways = {
        "Strata live": lambda: loras.live(model, adapters, 0.8, count),
        "Strata patch": lambda: loras.patched(model, adapters, 0.8, count),
        "ComfyUI": lambda: loras.core(model, tensors, 0.8, count),
        "ComfyUI bypass": lambda: comfy.sd.load_bypass_lora_for_models(model, None, tensors, 0.8, 0.0)[0],
    }
    found = {}
    for way in WAYS:
        # Weights of few bits are not patched: it takes minutes, and rounds away what the LoRA adds.
        if (count > 1 and way == "ComfyUI bypass") or (stored in COARSE and way in ("Strata patch", "ComfyUI")):
            continue
        comfy.model_management.unload_all_models()
        gc.collect()
        found[way] = peak_memory(lambda way=way: run(ways[way])) - plain
    shown = [size(found[way]) if way in found else "" for way in WAYS]
    return size(whole), size(factors), *shown, f"{(whole + found['Strata live']) / (whole + factors):.3f}"
