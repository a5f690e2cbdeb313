"""What one and ten LoRAs take of memory while a model samples, beside ComfyUI's loader and its bypass loader."""

from __future__ import annotations

import gc

import comfy.model_management
import comfy.sd
import torch

from . import loras, models
from .machine import peak_memory
from .results import size, table

WAYS = ("Strata live", "Strata patch", "ComfyUI", "ComfyUI bypass")


def held(quick: bool) -> str:
    """Two steps each; the LoRAs' own files are in memory before."""
    rows = []
    for name, rank, count in (
        [("SD1.5", 16, 1), ("SD1.5", 16, 10)]
        if quick
        else [(name, rank, count) for name in ("SD1.5", "FLUX") for rank in (16, 64) for count in (1, 10)]
    ):
        model = models.build(name, torch.float16, torch.float32)
        tensors = models.lora(model, rank)
        adapters = loras.adapters_of(model, tensors)
        numbers = sum(tensor.numel() for key, tensor in tensors.items() if not key.endswith(".alpha"))
        run = loras.Sampler(model, name, 8)
        ways = {
            "Strata live": lambda model=model, adapters=adapters: loras.live(model, adapters, 0.8, count),  # noqa: B023
            "Strata patch": lambda model=model, adapters=adapters: loras.patched(model, adapters, 0.8, count),  # noqa: B023
            "ComfyUI": lambda model=model, tensors=tensors: loras.core(model, tensors, 0.8, count),  # noqa: B023
            "ComfyUI bypass": lambda model=model, tensors=tensors: comfy.sd.load_bypass_lora_for_models(
                model, None, tensors, 0.8, 0.0
            )[0],
        }
        run(lambda model=model: model)
        comfy.model_management.unload_all_models()
        plain = peak_memory(lambda model=model: run(lambda: model))  # noqa: B023
        found = []
        for way in WAYS[: 4 if count == 1 else 3]:
            comfy.model_management.unload_all_models()
            gc.collect()
            found.append(size(peak_memory(lambda way=way: run(ways[way])) - plain))  # noqa: B023
        factors = numbers * count * 4
        rows.append((name, rank, count, size(factors), *found, *[""] * (4 - len(found))))
    return table(
        "Memory while LoRAs are in use",
        ("model", "rank", "LoRAs", "their factors in float32", *WAYS),
        rows,
        "Tensors, at most, beyond what the model without a LoRA takes, in two steps at 8x8 latents, computed in float32.",
        "Patched on a CPU, ComfyUI keeps the weights as they were beside the patched ones. Of several bypass loaders the last alone acts.",
    )
