"""LoRA state dicts in trainers' naming for a loaded model, with random factors."""

from __future__ import annotations

import comfy.lora
import torch


def factors(shape, rank: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(up, down) for a weight of this shape, as kohya shapes them; the delta is about 5 % of a weight of standard deviation 0.05."""
    if len(shape) == 2:
        up, down = (shape[0], rank), (rank, shape[1])
    else:
        up, down = (shape[0], rank, *[1] * (len(shape) - 2)), (rank, *shape[1:])
    make = lambda size: torch.randn(size, generator=generator) * 0.05 / rank**0.25  # noqa: E731
    return make(up).to(dtype), make(down).to(dtype)


def kohya(
    names: dict, shapes: dict, rank: int = 4, alpha: float | None = 2.0, dtype=torch.float16, seed: int = 5
) -> dict:
    """names: module name -> model key or (key, (axis, start, length)), one of ComfyUI's key maps or a part of it."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for module, key in names.items():
        name = key if isinstance(key, str) else key[0]
        shape = list(shapes.get(name, ()))
        if not shape:  # ComfyUI's map names skip connections that this UNet lacks
            continue
        if not isinstance(key, str) and key[1] is not None:
            shape[key[1][0]] = key[1][2]
        if len(shape) < 2:
            continue
        up, down = factors(shape, rank, generator, dtype)
        found[f"{module}.lora_up.weight"], found[f"{module}.lora_down.weight"] = up, down
        if alpha is not None:
            found[f"{module}.alpha"] = torch.tensor(alpha)
    return found


def unet_names(model, prefix: str = "lora_unet_", having: str = "") -> dict:
    """Names with this prefix in ComfyUI's map, one per weight: trainers never write the same weight twice.

    ComfyUI's map of FLUX.1 has FLUX.2's names too. A file with one of those is a FLUX.2 LoRA, so they are left out.
    """
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    return _unique({name: key for name, key in names.items() if "to_qkv_mlp_proj" not in name}, prefix, having)


def clip_names(clip, prefix: str) -> dict:
    return _unique(comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {}), prefix, "")


def _unique(names: dict, prefix: str, having: str) -> dict:
    seen, found = set(), {}
    for name, key in names.items():
        if name.startswith(prefix) and having in name and key not in seen:
            seen.add(key)
            found[name] = key
    return found


def shapes(module: torch.nn.Module) -> dict:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def full_lora(model, clip=None, text_prefixes=("lora_te_",), prefix: str = "lora_unet_", **settings) -> dict:
    """A LoRA on every matrix and convolution of a model and its text encoders."""
    found = kohya(unet_names(model, prefix), shapes(model.model), **settings)
    for text_prefix in text_prefixes if clip is not None else ():
        found.update(kohya(clip_names(clip, text_prefix), shapes(clip.cond_stage_model), **settings))
    return found
