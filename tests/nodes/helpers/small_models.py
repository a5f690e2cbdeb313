"""Real ComfyUI models with true layer names, random weights and, where nothing depends on it, narrow layers."""

from __future__ import annotations

import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
import torch

from strata.devtools import unet_configs

CPU = torch.device("cpu")

SD15 = {**unet_configs.SD15, "model_channels": 32}
SD2 = {**SD15, "context_dim": 1024, "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 32}
SDXL = {**unet_configs.SDXL, "model_channels": 32, "num_head_channels": 32}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "txt_ids_dims": [],
    "qkv_bias": True,
    "guidance_embed": True,
}
SMALL_FLUX = {**FLUX, "hidden_size": 96, "num_heads": 2, "axes_dim": [8, 20, 20], "depth": 2, "depth_single_blocks": 3}


def build(
    config: type,
    unet_config: dict,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    cast: torch.dtype | None = None,
):
    """A ModelPatcher over the diffusion model that ``config`` describes, filled with reproducible noise (on ``meta``: empty).

    cast: what to compute in, where that is not the dtype of the stored weights.
    """
    model_config = config({**unet_config, "dtype": dtype})
    model_config.set_inference_dtype(dtype, cast)
    model = model_config.get_model({}, device=torch.device(device))
    fill(model)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def fill(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.device.type != "meta":
            dtype = parameter.dtype if parameter.dtype.itemsize > 1 else torch.float32  # torch draws no 8 bit numbers
            parameter.data.copy_(torch.empty(parameter.shape, dtype=dtype).normal_(0, 0.05, generator=generator))


def sd15(dtype: torch.dtype = torch.float32, **changes):
    return build(comfy.supported_models.SD15, {**SD15, **changes}, dtype)


def sd2(dtype: torch.dtype = torch.float32, **changes):
    return build(comfy.supported_models.SD20, {**SD2, **changes}, dtype)


def sdxl(dtype: torch.dtype = torch.float32, **changes):
    return build(comfy.supported_models.SDXL, {**SDXL, **changes}, dtype)


def flux(dtype: torch.dtype = torch.float32, **changes):
    return build(comfy.supported_models.Flux, {**SMALL_FLUX, **changes}, dtype)


SMALL_CLIP = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "projection_dim": 64,
}


def clip(
    model: type,
    dtype: torch.dtype = torch.float32,
    tokenizer: type | None = None,
    quantized: dict | None = None,
    **configs: dict,
):
    """A comfy.sd.CLIP over narrow text encoders; ``configs``: clip_l={...} overrides of an encoder's own configuration.

    quantized: weights to load, as ComfyUI loads a checkpoint in few bits; without, it is filled with reproducible noise.
    """
    options = {"dtype": dtype, "load_device": CPU, "offload_device": CPU, "initial_device": CPU}
    if quantized:
        options["quantization_metadata"] = {"mixed_ops": True}
    options.update({f"{name}_model_config": config for name, config in configs.items()})
    target = comfy.supported_models_base.ClipTarget(tokenizer or (lambda **_: None), model)
    found = comfy.sd.CLIP(target, state_dict=quantized or {}, model_options=options)
    if not quantized:
        fill(found.cond_stage_model, seed=1)
    return found


def sd15_clip(dtype: torch.dtype = torch.float32):
    return clip(comfy.sd1_clip.SD1ClipModel, dtype, clip_l=SMALL_CLIP)


def sdxl_clip(dtype: torch.dtype = torch.float32):
    return clip(comfy.sdxl_clip.SDXLClipModel, dtype, clip_l=SMALL_CLIP, clip_g=SMALL_CLIP)
