"""Saved files, read back by the loaders of diffusers (which is PEFT's) and of LyCORIS: every layer changes as the stack made it."""

from __future__ import annotations

import comfy.utils
import diffusers
import folder_paths
import pytest
import safetensors.torch
import torch
from diffusers.loaders import single_file_utils
from lycoris.modules import get_module, make_module

from strata.nodes.loader import StrataLoraLoader
from strata.nodes.save import StrataLoraSave
from strata.tests.nodes.helpers import lora_makers, small_models
from strata.tests.nodes.helpers.saved_loras import family_models, weights

SMALL_UNET = {
    "block_out_channels": (32, 64, 128, 128),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}


# Families whose weights diffusers itself converts from the names that ComfyUI has.
CONVERSIONS = {
    "Z-Image": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
    "Wan 14B": single_file_utils.convert_wan_transformer_to_diffusers,
}


def sdxl():
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        attention_head_dim=(1, 2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        norm_num_groups=32,
    )


def z_image():
    return diffusers.ZImageTransformer2DModel(
        dim=96, cap_feat_dim=64, n_layers=2, n_heads=4, n_kv_heads=4, axes_dims=[8, 8, 8]
    )


def wan():
    return diffusers.WanTransformer3DModel(num_attention_heads=4, attention_head_dim=24, ffn_dim=128, num_layers=2)


def flux():
    return diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=48,
        num_attention_heads=2,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
        axes_dims_rope=(8, 20, 20),
    )


def qwen():
    return diffusers.QwenImageTransformer2DModel(
        num_layers=2, attention_head_dim=24, num_attention_heads=4, joint_attention_dim=48
    )


def saved_and_meant(family: str, layout: str, lora_folder, having: str = "") -> tuple[str, dict[str, torch.Tensor]]:
    """(path of a file, by diffusers' name: the change of a weight, or of a part of it, that the stack makes)."""
    model = family_models()[family]()
    names = lora_makers.unet_names(model, "lora_unet_", having)
    tensors = lora_makers.kohya(names, lora_makers.shapes(model.model), dtype=torch.float32)
    name = lora_folder.save("one.safetensors", tensors)
    ours = StrataLoraLoader.execute(name, 0.7, 0.0, model=model).result[0]
    given = {"method": "sum", "shrink": "exact", "amount": 0.0, "filename_prefix": "made", "precision": "fp32"}
    saved = StrataLoraSave.execute(lora_stack=[(name, 0.7, 0.0)], model=model, layout=layout, **given).result[0]
    own = model.model.state_dict()
    changes = {key: weight - own[key] for key, weight in weights(ours).items()}
    config = model.model.model_config.unet_config
    if family == "FLUX.1":
        known = comfy.utils.flux_to_diffusers(config, output_prefix="diffusion_model.")
    elif family in CONVERSIONS:
        whole = {key: changes.get(key, torch.zeros_like(value)) for key, value in own.items()}
        of_model = {key.removeprefix("diffusion_model."): value for key, value in whole.items()}
        found = CONVERSIONS[family](of_model)
        meant = {key.removesuffix(".weight"): value for key, value in found.items() if value.count_nonzero()}
        return folder_paths.get_full_path_or_raise("loras", saved), meant
    elif family in ("SD1.5", "SDXL"):
        known = {name: f"diffusion_model.{key}" for name, key in comfy.utils.unet_to_diffusers(config).items()}
    else:
        known = {key.removeprefix("diffusion_model."): key for key in changes}
    meant = {}
    for name, key in known.items():
        whole, part, rows = (key, None, None) if isinstance(key, str) else (*key, None)[:3]
        if whole in changes and name.endswith(".weight"):
            change = changes[whole] if part is None else changes[whole].narrow(*part)
            meant[name.removesuffix(".weight")] = change if rows is None else rows(change)
    return folder_paths.get_full_path_or_raise("loras", saved), meant


def loaded(model, tensors: dict, prefix: str, **more) -> dict[str, torch.Tensor]:
    """Layer -> the change that PEFT's layer makes, after diffusers has loaded the tensors."""
    model.load_lora_adapter(tensors, prefix=prefix, adapter_name="made", **more)
    found = {}
    for name, module in model.named_modules():
        if "made" in getattr(module, "lora_A", {}):
            found[name] = module.get_delta_weight("made").detach()
    return found


def same(found: dict, meant: dict) -> None:
    for name, change in found.items():
        expected = meant[name].reshape(change.shape)
        assert float((change - expected).norm()) <= 1e-4 * float(expected.norm()), name


def test_diffusers_reads_flux_in_its_own_layout(lora_folder, output):
    path, meant = saved_and_meant("FLUX.1", "diffusers", lora_folder)
    model = flux()
    tensors = diffusers.loaders.FluxLoraLoaderMixin.lora_state_dict(path)
    assert all(key.startswith("transformer.") for key in tensors)
    found = loaded(model, tensors, "transformer")
    same(found, meant)
    layers = {name for name, module in model.named_modules() if name in meant and module.__class__.__name__ == "Linear"}
    assert set(found) == layers and any(name.endswith("to_k") for name in found)


def test_diffusers_reads_flux_in_kohyas_layout(lora_folder, output):
    path, meant = saved_and_meant(
        "FLUX.1", "best", lora_folder, "double_blocks"
    )  # it knows linear1 at its real width only
    found = loaded(flux(), diffusers.loaders.FluxLoraLoaderMixin.lora_state_dict(path), "transformer")
    same(found, meant)
    assert len(found) == 2 * 14 and any(name.endswith("add_k_proj") for name in found)


@pytest.mark.parametrize("layout", ["best", "diffusers"])
def test_diffusers_reads_sd15(layout, lora_folder, output):
    path, meant = saved_and_meant("SD1.5", layout, lora_folder)
    model = diffusers.UNet2DConditionModel(**SMALL_UNET)
    mixin = diffusers.loaders.StableDiffusionLoraLoaderMixin
    tensors, alphas = mixin.lora_state_dict(path, unet_config=model.config)
    found = loaded(model, tensors, "unet", network_alphas=alphas)
    same(found, meant)
    attention = {name for name in meant if ".attn" in name}
    assert attention <= set(found) and len(found) > len(attention) > 100


@pytest.mark.parametrize("layout", ["best", "diffusers", "kohya"])
def test_diffusers_reads_sdxl(layout, lora_folder, output):
    path, meant = saved_and_meant("SDXL", layout, lora_folder)
    model = sdxl()
    mixin = diffusers.loaders.StableDiffusionXLLoraLoaderMixin
    tensors, alphas = mixin.lora_state_dict(path, unet_config=model.config)
    found = loaded(model, tensors, "unet", network_alphas=alphas)
    same(found, meant)
    attention = {name for name in meant if ".attn" in name}
    assert attention <= set(found) and len(found) > len(attention) > 500


@pytest.mark.parametrize(
    "family, layout, having",
    [
        ("Wan 14B", "best", "blocks"),
        ("Wan 14B", "diffusers", "blocks"),
        ("Z-Image", "best", "layers"),
        ("Z-Image", "best", "refiner"),
        # Beside one that is of the whole model: one prefix for all, or diffusers leaves out those of the other.
        ("Z-Image", "diffusers", "er"),
    ],
)
def test_diffusers_reads_what_it_converts(family, layout, having, lora_folder, output):
    path, meant = saved_and_meant(family, layout, lora_folder, having)
    model, mixin = {
        "Z-Image": (z_image, diffusers.loaders.ZImageLoraLoaderMixin),
        "Wan 14B": (wan, diffusers.loaders.WanLoraLoaderMixin),
    }[family]
    tensors = mixin.lora_state_dict(path)
    # Its widths there are fixed in each library, to different numbers.
    tensors = {key: value for key, value in tensors.items() if "t_embedder" not in key}
    found = loaded(model(), tensors, "transformer")
    same(found, meant)
    assert set(found) == {name for name in meant if "t_embedder" not in name}


def test_diffusers_reads_qwen(lora_folder, output):
    path, meant = saved_and_meant("Qwen-Image", "best", lora_folder, "transformer_blocks")
    found = loaded(qwen(), diffusers.loaders.QwenImageLoraLoaderMixin.lora_state_dict(path), "transformer")
    same(found, meant)
    assert set(found) == set(meant)


def test_lycoris_reads_kohyas_layout(lora_folder, output):
    path, meant = saved_and_meant("SD1.5", "kohya", lora_folder)
    tensors, found = safetensors.torch.load_file(path), {}
    for name, layer in diffusers.UNet2DConditionModel(**SMALL_UNET).named_modules():
        kind, params = get_module(tensors, f"lora_unet_{name.replace('.', '_')}")
        if kind is not None:
            found[name] = make_module(kind, params, name, layer).get_diff_weight(1.0)[0].detach()
    same(found, meant)
    assert {name for name in meant if ".attn" in name} <= set(found)


def test_the_names_of_text_encoders_are_diffusers_too(lora_folder, output):
    clip = small_models.sdxl_clip()
    names = lora_makers.clip_names(clip, "lora_te1_") | lora_makers.clip_names(clip, "lora_te2_")
    tensors = lora_makers.kohya(names, lora_makers.shapes(clip.cond_stage_model), dtype=torch.float32)
    name = lora_folder.save("one.safetensors", tensors)
    given = {"method": "sum", "shrink": "exact", "amount": 0.0, "filename_prefix": "made"}
    found = StrataLoraSave.execute(lora_stack=[(name, 1.0, 1.0)], clip=clip, layout="diffusers", **given).result[1]
    layer = "text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight"
    assert {f"text_encoder.{layer}", f"text_encoder_2.{layer}"} <= set(found)
