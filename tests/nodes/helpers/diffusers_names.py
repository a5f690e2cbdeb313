"""Which rows of which ComfyUI weight a weight of diffusers is, as diffusers' own checkpoint conversion has it.

Every row of a ComfyUI model is replaced by its address; what comes out of the conversion says where each row went. Nothing of the pack
and nothing of ComfyUI's key maps takes part.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from diffusers.loaders import single_file_utils as convert

from strata.tests.nodes.helpers import core_models


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


def tencent_names(weights) -> dict[str, str]:
    """ComfyUI's key -> Tencent's: the one that ComfyUI's own loading of a checkpoint turns into it."""
    settings = core_models.build("HunyuanVideo").model_config
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


def _cosmos(weights: dict) -> dict:
    class Kept(dict):  # the conversion looks for the name that tells Cosmos 1 from 2 after taking every key out
        pop = dict.__getitem__

    return convert.convert_cosmos_transformer_checkpoint_to_diffusers(
        Kept({f"net.{key}": value for key, value in weights.items()})
    )


def _anima(weights: dict) -> dict:
    """The transformer alone: diffusers has the adapter between text encoder and transformer as a component of its own."""
    return convert.convert_cosmos_transformer_checkpoint_to_diffusers(
        {key: value for key, value in weights.items() if not key.startswith("llm_adapter.")}
    )


def _by_hand(*pairs: tuple[str, str]) -> Callable:
    """Where diffusers has no conversion: (ComfyUI's name, diffusers'), read off the two models side by side. ``a|b|c``: equal thirds."""

    def converted(weights: dict) -> dict:
        found = {}
        for key, value in weights.items():
            name = key
            for ours, theirs in pairs:
                name = re.sub(rf"^{ours}\.(weight|bias)$", rf"{theirs}.\g<{re.compile(ours).groups + 1}>", name)
                if name != key:
                    break
            names = name.rsplit(".", 2)
            parts = names[1].split("|") if len(names) == 3 else []
            if len(parts) > 1:
                found |= {
                    f"{names[0]}.{part}.{names[2]}": rows
                    for part, rows in zip(parts, value.chunk(len(parts)), strict=True)
                }
            else:
                found[name] = value
        return found

    return converted


def _hunyuan_15(weights: dict) -> dict:
    ends = _by_hand(
        (r"time_in\.in_layer", "time_embed.timestep_embedder.linear_1"),
        (r"time_in\.out_layer", "time_embed.timestep_embedder.linear_2"),
        (r"byt5_in\.fc(\d)", r"context_embedder_2.linear_\1"),
        (r"vision_in\.proj\.1", "image_embedder.linear_1"),
        (r"vision_in\.proj\.3", "image_embedder.linear_2"),
        (r"cond_type_embedding", "cond_type_embed"),
    )
    own = {key: value for key, value in weights.items() if re.match("time_in|byt5_in|vision_in|cond_type", key)}
    return ends(own) | _tencent({key: value for key, value in weights.items() if key not in own})


_PIXART = _by_hand(
    (r"blocks\.(\d+)\.attn\.qkv", r"transformer_blocks.\1.attn1.to_q|to_k|to_v"),
    (r"blocks\.(\d+)\.attn\.proj", r"transformer_blocks.\1.attn1.to_out.0"),
    (r"blocks\.(\d+)\.cross_attn\.q_linear", r"transformer_blocks.\1.attn2.to_q"),
    (r"blocks\.(\d+)\.cross_attn\.kv_linear", r"transformer_blocks.\1.attn2.to_k|to_v"),
    (r"blocks\.(\d+)\.cross_attn\.proj", r"transformer_blocks.\1.attn2.to_out.0"),
    (r"blocks\.(\d+)\.mlp\.fc1", r"transformer_blocks.\1.ff.net.0.proj"),
    (r"blocks\.(\d+)\.mlp\.fc2", r"transformer_blocks.\1.ff.net.2"),
    (r"x_embedder\.proj", "pos_embed.proj"),
    (r"t_embedder\.mlp\.0", "adaln_single.emb.timestep_embedder.linear_1"),
    (r"t_embedder\.mlp\.2", "adaln_single.emb.timestep_embedder.linear_2"),
    (r"t_block\.1", "adaln_single.linear"),
    (r"y_embedder\.y_proj\.fc(\d)", r"caption_projection.linear_\1"),
    (r"final_layer\.linear", "proj_out"),
)


def _ace_step_15(weights: dict) -> dict:
    """The decoder alone: diffusers has the encoders as components of their own."""
    return _by_hand(
        (r"decoder\.(layers\.\d+\.\w+_attn)\.([qkv])_proj", r"\1.to_\2"),
        (r"decoder\.(layers\.\d+\.\w+_attn)\.o_proj", r"\1.to_out.0"),
        (r"decoder\.(layers\.\d+\.mlp\.\w+|time_embed\w*\.\w+|condition_embedder)", r"\1"),
    )(
        {
            key: value
            for key, value in weights.items()
            if re.match(r"decoder\.(layers|time_embed|condition_embedder)", key)
        }
    )


_SD3_CONTEXT = {f"context_embedder.{end}": torch.tensor([[-1]]) for end in ("weight", "bias")}


def _sd3(weights: dict) -> dict:
    # The test model is built without this layer; the conversion asks for it.
    return convert.convert_sd3_transformer_checkpoint_to_diffusers(_SD3_CONTEXT | weights)


_SD = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
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
    "SD3.5 medium": _sd3,
    "SD3.5 large": _sd3,
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
    "Cosmos 7B": _cosmos,
    "Cosmos Predict2 2B": convert.convert_cosmos_transformer_checkpoint_to_diffusers,
    "Cosmos Predict2 14B": convert.convert_cosmos_transformer_checkpoint_to_diffusers,
    "Anima": _anima,
    "HunyuanVideo 1.5": _hunyuan_15,
    "Qwen-Image": dict,  # the same names
    "PixArt": _PIXART,
    "ACE-Step 1.5": _ace_step_15,
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
        if not key.endswith(".weight") or value.ndim < 2 or int(value.flatten()[0]) < 0:
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
