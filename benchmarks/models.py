"""The models that are measured, with random weights: SD1.5 and SDXL whole, FLUX at its real width with fewer blocks."""

from __future__ import annotations

import json

import comfy.lora
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

from strata.devtools import unet_configs

CPU = torch.device("cpu")

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
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "txt_ids_dims": [],
    "qkv_bias": True,
    "guidance_embed": True,
}
# name -> (configuration, its UNet, latent channels, context [tokens, width], pooled width)
MODELS = {
    "SD1.5": (comfy.supported_models.SD15, unet_configs.SD15, 4, (77, 768), None),
    "SDXL": (comfy.supported_models.SDXL, unet_configs.SDXL, 4, (77, 2048), 1280),
    "FLUX": (comfy.supported_models.Flux, FLUX, 16, (77, 4096), 768),
}


def build(name: str, dtype: torch.dtype, cast: torch.dtype | None = None):
    """A ModelPatcher; dtype of the stored weights, cast: what to compute in where that is another one."""
    config, unet, *_ = MODELS[name]
    model_config = config({**unet, "dtype": dtype})
    model_config.set_inference_dtype(dtype, cast)
    model = model_config.get_model({}, device=CPU)
    noise = torch.randn(1 << 22).mul_(0.02).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.data.view(-1)
            for part in flat.split(len(noise)):
                part.copy_(noise[: len(part)])
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def whole_flux():
    """FLUX.1 with all of its blocks, whose weights have shapes and no numbers."""
    config = comfy.supported_models.Flux({**FLUX, "depth": 19, "depth_single_blocks": 38, "dtype": torch.bfloat16})
    config.set_inference_dtype(torch.bfloat16, None)
    return comfy.model_patcher.ModelPatcher(config.get_model({}, device=torch.device("meta")), CPU, CPU)


def packed(config, settings: dict, compute: torch.dtype, device: torch.device):
    """A model as ComfyUI loads it from a checkpoint whose matrices are NVFP4. settings: of its UNet, computed in ``compute``."""
    plain = config(settings)
    plain.set_inference_dtype(torch.bfloat16, None)
    shapes = plain.get_model({}, device=torch.device("meta")).diffusion_model.state_dict()
    weights, layout = {}, QUANT_ALGOS["nvfp4"]["comfy_tensor_layout"]
    for key, empty in shapes.items():
        weight = torch.randn(empty.shape, device=device, dtype=torch.bfloat16).mul_(0.02)
        if weight.ndim == 2 and "blocks" in key and key.endswith(".weight") and min(weight.shape) >= 64:
            parts = QuantizedTensor.from_float(weight, layout, scale="recalculate").state_dict(key)
            weights.update({name: tensor.cpu() for name, tensor in parts.items()})
            told = list(json.dumps({"format": "nvfp4"}).encode())
            weights[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(told, dtype=torch.uint8)
        else:
            weights[key] = weight.cpu()
    model_config = config(settings)
    model_config.quant_config = {"mixed_ops": True}
    model_config.set_inference_dtype(torch.bfloat16, compute if compute != torch.bfloat16 else None)
    model = model_config.get_model({}, device=torch.device("cpu"))
    model.load_model_weights(weights, "")
    return model


def lora(model, rank: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A LoRA on every matrix and convolution, as kohya names them, in float16."""
    # Of the parameters: a packed weight is bytes of another shape in the state dict.
    shapes = {key: value.shape for key, value in model.model.named_parameters(remove_duplicate=False)}
    found, seen = {}, set()
    generator = torch.Generator().manual_seed(seed)
    make = lambda *size: (torch.randn(size, generator=generator) * 0.02).half()  # noqa: E731
    for module, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        shape = shapes.get(key, ()) if isinstance(key, str) else ()
        if module.startswith("lora_unet_") and len(shape) > 1 and key not in seen:
            seen.add(key)
            ones = [1] * (len(shape) - 2)
            found[f"{module}.lora_up.weight"] = make(shape[0], rank, *ones)
            found[f"{module}.lora_down.weight"] = make(rank, *shape[1:])
            found[f"{module}.alpha"] = torch.tensor(float(rank))
    return found


def inputs(name: str, size: int) -> tuple[torch.Tensor, list]:
    """(noise [1, channels, size, size], a conditioning)."""
    _, _, channels, context, pooled = MODELS[name]
    extra = {} if pooled is None else {"pooled_output": torch.randn(1, pooled)}
    return torch.randn(1, channels, size, size), [[torch.randn(1, *context), extra]]
