"""LoRA files for tests against a real server: every layer of a real model, in a trainer's own spelling, in rank 1."""

from __future__ import annotations

import math
from pathlib import Path

import comfy.lora
import torch
from safetensors.torch import save_file

# file name -> (model of nodes/core_models.py, prefix of the spelling, metadata)
KINDS = {
    "sd15.safetensors": ("SD1.5", "lora_unet_", {"modelspec.trigger_phrase": "ohwx woman, portrait"}),
    "sdxl.safetensors": ("SDXL", "lora_unet_down_blocks|lora_unet_mid_block|lora_unet_up_blocks", {}),
    # These names and widths are Chroma's too: only the header tells.
    "flux.safetensors": ("FLUX.1", "transformer.", {"modelspec.architecture": "flux-1-dev/lora"}),
    "z-image.safetensors": ("Z-Image", "diffusion_model.", {}),
    "wan.safetensors": ("Wan 14B", "diffusion_model.", {}),
    "qwen.safetensors": ("Qwen-Image", "transformer.", {}),
}
TRAINED = ("attn", "attention", "mlp", ".ff", "linear", "proj_")
ENCODERS = {
    "sd15.safetensors": (("lora_te_", 12, 768),),
    "sdxl.safetensors": (("lora_te1_", 12, 768), ("lora_te2_", 32, 1280)),
}


def save_all(folder: Path, kinds=KINDS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in kinds:
        if not (folder / name).exists():
            tensors = make(name)
            save_file(tensors, folder / name, KINDS[name][2] or None)


def make(name: str) -> dict[str, torch.Tensor]:
    """Energy that rises and falls along the depth, so that a picture of it has a shape."""
    from strata.tests.nodes.helpers import core_models

    model = core_models.build(KINDS[name][0])
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    seen: set = set()
    found: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(7)
    names = comfy.lora.model_lora_keys_unet(model, {})
    chosen = []
    for module, key in names.items():
        plain = key if isinstance(key, str) else key[0]
        if not module.startswith(tuple(KINDS[name][1].split("|"))) or repr(key) in seen or "to_qkv_mlp" in module:
            continue
        shape = list(shapes.get(plain, ()))
        if len(shape) < 2 or not any(word in plain for word in TRAINED):
            continue
        if not isinstance(key, str) and key[1] is not None:
            shape[key[1][0]] = key[1][2]
        seen.add(repr(key))
        chosen.append((module, shape))
    for at, (module, shape) in enumerate(chosen):
        depth = at / len(chosen)
        size = 0.02 * (0.25 + math.exp(-(((depth - 0.62) / 0.2) ** 2)) + 0.3 * math.sin(9 * depth) ** 2)
        _add(found, module, shape, size, generator)
    for prefix, layers, width in ENCODERS.get(name, ()):
        for layer in range(layers):
            for part in ("q", "k", "v", "out"):
                module = f"{prefix}text_model_encoder_layers_{layer}_self_attn_{part}_proj"
                _add(found, module, [width, width], 0.004, generator)
    return found


def _add(found: dict, module: str, shape: list[int], size: float, generator: torch.Generator) -> None:
    kernel = [1] * (len(shape) - 2)
    up = torch.randn([shape[0], 1, *kernel], generator=generator) * size
    down = torch.randn([1, shape[1], *shape[2:]], generator=generator) * size
    found[f"{module}.lora_up.weight"] = up.half()
    found[f"{module}.lora_down.weight"] = down.half()
    found[f"{module}.alpha"] = torch.tensor(1.0)
