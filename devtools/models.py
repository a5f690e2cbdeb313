"""Makes a small SD1.5 checkpoint and two LoRAs for it, without any download. Runs under ComfyUI's Python.

    python devtools/models.py --comfyui PATH --into FOLDER

The checkpoint has every layer of Stable Diffusion 1.5 under its real name and loads in ``CheckpointLoaderSimple``. Only the
channel multipliers are smaller than the real ones (ComfyUI's detection fixes all other sizes). It was never trained:
a handful of layers are set by hand, so that sampling removes noise and ends in soft fields of colour, and all
others are random, so that each of them, and each LoRA module on it, changes the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

CHECKPOINT = "strata_demo_sd15.safetensors"
LORAS = ("strata_demo_warm.safetensors", "strata_demo_conv.safetensors")
SEED = 20240831

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 1, 1],  # the real one is 1, 2, 4, 4
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "num_head_channels": -1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "legacy": False,
}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
VAE_DECODER = {**VAE, "ch": 64}
# Last layers of residual branches: small, so that no single block drowns the others.
BRANCH_ENDS = ("proj_out.", "out_layers.3.", "to_out.0.", "ff.net.2.", "conv2.", "out_proj.", "fc2.")
BRANCH_GAIN = 0.5
# How much of the UNet's coloured output, against the noise that it removes, goes into the picture.
COLOUR_GAIN = 0.15
# How much each level of the way up, coarse to fine, sees of what skipped the levels below it.
SKIP_GAINS = (1.0, 0.7, 0.15, 0.02)
# ||delta|| / ||weight|| of every module at strength 1: what a strong trained LoRA has.
LORA_SIZE = 0.12
LATENT_TO_RGB = ((0.35, 0.23, 0.32), (0.33, 0.50, 0.24), (-0.28, 0.18, 0.27), (-0.21, -0.26, -0.72))


def shapes() -> dict:
    """Name -> shape of every tensor in the checkpoint, from ComfyUI's own classes on the meta device."""
    import comfy.ops
    import torch
    from comfy.clip_model import CLIPTextModel
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    clip_config = json.loads((Path(comfy.ops.__file__).parent / "sd1_clip_config.json").read_text())
    ops = comfy.ops.disable_weight_init
    with torch.device("meta"):
        unet = UNetModel(**UNET, device="meta", operations=ops)
        clip = CLIPTextModel(clip_config, torch.float16, "meta", ops)
        vae = AutoencoderKL(embed_dim=4, ddconfig=VAE, decoder_ddconfig=VAE_DECODER)
    parts = {"model.diffusion_model.": unet, "cond_stage_model.transformer.": clip, "first_stage_model.": vae}
    found = {p + k: tuple(v.shape) for p, module in parts.items() for k, v in module.state_dict().items()}
    # Not in SD1.5 files: their text encoder has no projection.
    return {name: shape for name, shape in found.items() if "text_projection" not in name}


def fill(name: str, shape: tuple[int, ...], generator):
    """A random tensor that keeps the scale of what flows through it; norms start as the identity."""
    import torch

    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    tensor = torch.randn(shape, generator=generator)
    if "embedding" in name:
        return tensor * (0.1 if "position" in name else 1.0)
    gain = BRANCH_GAIN if any(end in name for end in BRANCH_ENDS) else 1.0
    return tensor * gain / math.sqrt(math.prod(shape[1:]))


def set_unet_by_hand(sd: dict) -> None:
    """The channels that carry the noise through to the output, so that the rest of the UNet paints the picture.

    Channels 0..7 of the first convolution hold (x, -x). They skip to the last block, where the group norm brings them to the unit
    scale that an epsilon prediction has; silu(z) - silu(-z) = z undoes the nonlinearity.
    """
    import torch

    unet = "model.diffusion_model."
    first, skip = sd[unet + "input_blocks.0.0.weight"], sd[unet + "output_blocks.11.0.skip_connection.weight"]
    carried = 10  # one group of the group norm: 320 channels / 32
    eye = torch.eye(4)
    first[:carried] = 0
    first[:8, :, 1, 1] = torch.cat([eye, -eye])

    # In the last block nothing else may write to these channels; it concatenates (what comes from below, first).
    below = UNET["model_channels"]
    skip[:carried] = 0
    skip[:8, below : below + 8, 0, 0] = torch.eye(8)
    for layer in ("output_blocks.11.0.out_layers.3.weight", "output_blocks.11.1.proj_out.weight"):
        sd[unet + layer][:carried] = 0

    # Finer levels look at their skips less than at what comes from below: soft shapes rather than grain.
    for block in range(3, 12):
        gain = SKIP_GAINS[block // 3]
        sd[f"{unet}output_blocks.{block}.0.skip_connection.weight"][carried:, below:] *= gain
        sd[f"{unet}output_blocks.{block}.0.in_layers.2.weight"][:, below:] *= gain
    for block in (2, 5, 8):
        smooth(sd[f"{unet}output_blocks.{block}.{1 if block == 2 else 2}.conv.weight"])

    out = sd[unet + "out.2.weight"]
    out[:, carried:] = out[:, carried:].mean((2, 3), keepdim=True) * 3 * COLOUR_GAIN
    out[:, :carried] = 0
    unit = math.sqrt(8 / carried)  # the two empty channels of the group lower its measured deviation
    out[:, :8, 1, 1] = torch.cat([eye, -eye], 1) * unit


def set_vae_by_hand(sd: dict) -> None:
    """A decoder that mostly enlarges the latent image smoothly and turns its four channels into colours."""
    import torch

    vae = "first_stage_model."
    sd[vae + "post_quant_conv.weight"][:] = torch.eye(4)[:, :, None, None]
    rgb = torch.tensor(LATENT_TO_RGB).T
    conv_in = sd[vae + "decoder.conv_in.weight"]
    conv_in[:6] = 0
    conv_in[:6, :, 1, 1] = torch.stack([rgb, -rgb], 1).flatten(0, 1)  # R, -R, G, -G, B, -B: one norm group each
    smooth(conv_in[:6])  # what noise is left in the latent image
    for name, tensor in sd.items():
        if not name.startswith(vae + "decoder."):
            continue
        if name.endswith(("conv2.weight", "attn_1.proj_out.weight")):
            tensor[:6] = 0
        elif name.endswith("nin_shortcut.weight"):
            tensor[:6] = 0
            tensor[:6, :6, 0, 0] = torch.eye(6)
        elif name.endswith("upsample.conv.weight"):
            tensor[:6] = 0
            tensor[:6, :6] = torch.eye(6)[:, :, None, None]
            smooth(tensor)
    out = sd[vae + "decoder.conv_out.weight"]
    out *= 0.02
    out[:, :6, 1, 1] = torch.tensor([[1, -1, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, 0, 0, 1, -1.0]]) * 0.38


def smooth(conv) -> None:
    """Give every 3x3 kernel the shape of a small blur, keeping its centre value as its sum."""
    import torch

    line = torch.tensor([0.25, 0.5, 0.25])
    conv[:] = conv[:, :, 1:2, 1:2] * torch.outer(line, line)


def write_checkpoint(path: Path) -> dict:
    """Write the checkpoint (fp16) and return its tensors (fp32) by name."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)
    sd = {name: fill(name, shape, generator) for name, shape in shapes().items() if "position_ids" not in name}
    set_unet_by_hand(sd)
    set_vae_by_hand(sd)
    metadata = {"modelspec.architecture": "stable-diffusion-v1", "modelspec.title": "Strata demo, untrained"}
    save_file({name: tensor.half() for name, tensor in sd.items()}, path, metadata)
    return sd


def kohya_modules(checkpoint: dict) -> dict:
    """kohya's module name -> the checkpoint's weight, for everything that kohya's SD1.5 scripts can train."""
    import comfy.utils

    unet = "model.diffusion_model."
    modules = {}
    for theirs, ours in comfy.utils.unet_to_diffusers(UNET).items():
        weight = checkpoint.get(unet + ours)
        in_block = theirs.startswith(("down_blocks.", "mid_block.", "up_blocks."))
        if theirs.endswith(".weight") and in_block and weight is not None and weight.ndim > 1:
            modules["lora_unet_" + theirs.removesuffix(".weight").replace(".", "_")] = weight
    clip = "cond_stage_model.transformer."
    for name, weight in checkpoint.items():
        if name.startswith(clip + "text_model.encoder.layers.") and name.endswith(".weight") and weight.ndim > 1:
            module = name.removeprefix(clip).removesuffix(".weight")
            modules["lora_te_" + module.replace(".", "_")] = weight
    return modules


def write_lora(path: Path, modules: dict, *, rank: int, alpha: float, size: float, seed: int, words: str) -> None:
    """Write a LoRA in kohya's format over ``modules`` (kohya name -> base weight).

    Args:
        size: ||delta|| / ||weight|| of every module at strength 1 (Frobenius norms).
        words: the trigger words that its metadata names.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in modules.items():
        down = torch.randn((rank, *weight.shape[1:]), generator=generator)
        up = torch.randn((weight.shape[0], rank, *[1] * (weight.ndim - 2)), generator=generator)
        delta = up.flatten(1) @ down.flatten(1) * (alpha / rank)
        # Both factors get their share, as they have after training.
        share = math.sqrt(size * float(weight.norm() / delta.norm()))
        tensors[f"{name}.lora_down.weight"] = (down * share).half()
        tensors[f"{name}.lora_up.weight"] = (up * share).half()
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    tags = {"1_demo": {words: 24, "no humans": 20, "abstract": 12}}
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": "sd_v1",
        "ss_output_name": path.stem,
        "ss_tag_frequency": json.dumps(tags),
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": path.stem,
        "modelspec.trigger_phrase": words,
    }
    save_file(tensors, path, metadata)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--into", type=Path, required=True, help="gets checkpoints/ and loras/")
    options = parser.parse_args()
    # In place of this script's own folder, whose server.py would hide ComfyUI's.
    sys.path[0] = options.comfyui
    from comfy.cli_args import args

    args.cpu = True  # or comfy.model_management looks for a GPU

    for folder in ("checkpoints", "loras"):
        (options.into / folder).mkdir(parents=True, exist_ok=True)
    checkpoint = write_checkpoint(options.into / "checkpoints" / CHECKPOINT)
    modules = kohya_modules(checkpoint)
    is_conv = {name: weight.ndim == 4 and weight.shape[2] == 3 for name, weight in modules.items()}
    # kohya's plain LoRA: attention blocks and text encoder. Its LoCon adds the residual blocks and the resamplers.
    plain = {k: w for k, w in modules.items() if k.startswith("lora_te_") or "_attentions_" in k}
    locon = {k: w for k, w in modules.items() if not k.startswith("lora_te_")}
    assert any(is_conv[k] for k in locon) and not any(is_conv[k] for k in plain)
    loras = options.into / "loras"
    write_lora(loras / LORAS[0], plain, rank=8, alpha=4.0, size=LORA_SIZE, seed=SEED + 1, words="warm light")
    write_lora(loras / LORAS[1], locon, rank=4, alpha=4.0, size=LORA_SIZE, seed=SEED + 2, words="woven texture")


if __name__ == "__main__":
    main()
