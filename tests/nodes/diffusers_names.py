"""Which rows of which ComfyUI weight a weight of diffusers is, as diffusers' own checkpoint conversion has it.

Every row of a ComfyUI model is replaced by its address; what comes out of the conversion says where each row went. Nothing of the pack
and nothing of ComfyUI's key maps takes part.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import core_models
import torch
from diffusers.loaders import single_file_utils as convert


class Rows(NamedTuple):
    """The ComfyUI key, and for each row of the diffusers weight the row of that key."""

    key: str
    rows: torch.Tensor


def _unet(**config) -> Callable:
    whole = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None, **config}
    return lambda weights: convert.convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{key}": value for key, value in weights.items()}, config=whole
    )


def _scaled_norms(to: Callable) -> Callable:
    """Black Forest Labs and Krea call the weight of a norm ``scale``; ComfyUI renames it as it loads."""

    def converted(weights: dict) -> dict:
        return to({re.sub(r"(_norm|norms\.\d+)\.weight$", r"\1.scale", key): value for key, value in weights.items()})

    return converted


def _tencent(weights: dict) -> dict:
    return convert.convert_hunyuan_video_transformer_to_diffusers(
        {original: weights[key] for key, original in tencent_names(weights).items()}
    )


def tencent_names(weights, config: str = "HunyuanVideo") -> dict[str, str]:
    """ComfyUI's key -> Tencent's: the one that ComfyUI's own loading of a checkpoint turns into it."""
    settings = core_models.build(config).model_config
    found = {}
    for key in weights:
        candidates = {key}
        for new, old in (
            (r"_mod\.lin\.", "_mod.linear."),
            (r"_attn\.(qkv|proj)\.", r"_attn_\1."),
            (r"mlp\.0\.", "mlp.fc1."),
            (r"mlp\.2\.", "mlp.fc2."),
            (r"_attn\.norm\.(q|k)\w+_norm\.", r"_attn_\1_norm."),
            (r"\.norm\.(q|k)\w+_norm\.", r".\1_norm."),
            (r"modulation\.lin\.", "modulation.linear."),
            (r"c_embedder\.in_layer\.", "c_embedder.linear_1."),
            (r"c_embedder\.out_layer\.", "c_embedder.linear_2."),
            (r"(time_in|guidance_in|t_embedder)\.in_layer\.", r"\1.mlp.0."),
            (r"(time_in|guidance_in|t_embedder)\.out_layer\.", r"\1.mlp.2."),
        ):
            candidates |= {re.sub(new, old, name) for name in candidates}
        found[key] = next(
            name
            for name in sorted(candidates, key=lambda name: (name == key, name))
            if list(settings.process_unet_state_dict({name: 0})) == [key]
        )
    return found


_SD = {"down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3}
_SDXL = {
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "addition_embed_type": "text_time",
}
_REFINER = {
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "addition_embed_type": "text_time",
}
_CONVERSIONS: dict[str, Callable] = {
    "SD1.5": _unet(**_SD),
    "SD2": _unet(**_SD),
    "SDXL": _unet(**_SDXL),
    "SDXL refiner": _unet(**_REFINER),
    "SD3": convert.convert_sd3_transformer_checkpoint_to_diffusers,
    "SD3.5 medium": convert.convert_sd3_transformer_checkpoint_to_diffusers,
    "SD3.5 large": convert.convert_sd3_transformer_checkpoint_to_diffusers,
    "FLUX.1": _scaled_norms(convert.convert_flux_transformer_checkpoint_to_diffusers),
    "FLUX.2 klein 4B": _scaled_norms(convert.convert_flux2_transformer_checkpoint_to_diffusers),
    "FLUX.2 klein 9B": _scaled_norms(convert.convert_flux2_transformer_checkpoint_to_diffusers),
    "FLUX.2 dev": _scaled_norms(convert.convert_flux2_transformer_checkpoint_to_diffusers),
    "Chroma": _scaled_norms(convert.convert_chroma_transformer_checkpoint_to_diffusers),
    "HunyuanVideo": _tencent,
    "Lumina 2": convert.convert_lumina2_to_diffusers,
    "Z-Image": convert.convert_z_image_transformer_checkpoint_to_diffusers,
    "Wan 14B": convert.convert_wan_transformer_to_diffusers,
    "Wan 14B i2v": convert.convert_wan_transformer_to_diffusers,
    "Wan 1.3B": convert.convert_wan_transformer_to_diffusers,
    "Wan 2.2 5B": convert.convert_wan_transformer_to_diffusers,
    "Wan VACE": convert.convert_wan_transformer_to_diffusers,
    "LTX-Video": convert.convert_ltx_transformer_checkpoint_to_diffusers,
    "LTX-2": convert.convert_ltx2_transformer_to_diffusers,
    "HiDream": convert.convert_hidream_transformer_to_diffusers,
    "AuraFlow": convert.convert_auraflow_transformer_checkpoint_to_diffusers,
    "Mochi": convert.convert_mochi_transformer_checkpoint_to_diffusers,
    "Cosmos 7B": lambda weights: convert.convert_cosmos_transformer_checkpoint_to_diffusers(
        {f"net.{key}": value for key, value in weights.items()}
    ),
    "Cosmos Predict2 2B": convert.convert_cosmos_transformer_checkpoint_to_diffusers,
    "Krea 2": convert.convert_krea2_transformer_checkpoint_to_diffusers,
}
KNOWN = tuple(_CONVERSIONS)


@cache
def weights_of(name: str) -> dict[str, tuple[int, ...]]:
    """The diffusion model's matrices and convolutions: ComfyUI's key without ``diffusion_model.`` -> shape."""
    weights = core_models.build(name).state_dict()
    return {key[16:]: tuple(value.shape) for key, value in weights.items() if key.startswith("diffusion_model.")}


@cache
def diffusers_weights(name: str) -> dict[str, Rows]:
    """diffusers' module name -> the rows that its weight is made of, for every matrix and convolution that the conversion knows."""
    shapes = weights_of(name)
    keys = list(shapes)
    tagged = {key: _addresses(i, shape) for i, (key, shape) in enumerate(shapes.items())}
    found = {}
    for key, value in _CONVERSIONS[name](tagged).items():
        if not key.endswith(".weight") or value.ndim < 2:
            continue
        address = value.flatten()
        number = int(address[0] >> 32)
        assert torch.all(address >> 32 == number), f"{key} is made of several weights"
        if len(shapes[keys[number]]) > 1:
            found[key.removesuffix(".weight")] = Rows(f"diffusion_model.{keys[number]}", address & 0xFFFFFFFF)
    return found


def _addresses(number: int, shape: tuple[int, ...]) -> torch.Tensor:
    """One column of (number of the weight, number of the row): the conversions only ever cut and join rows."""
    rows = shape[0] if shape else 1
    return ((number << 32) + torch.arange(rows)).reshape(-1, *[1] * max(0, len(shape) - 1))
