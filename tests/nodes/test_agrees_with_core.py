"""On plain LoRA, every weight after our loader is the one after ComfyUI's own, to rounding; the base weights come back bit for bit.

Rounding is bounded entry by entry by a few eps * (|W| + |scale| (|up| @ |down|)): the terms of the inner product, not their sum, is
what a different order of summation rounds (Higham, Accuracy and Stability of Numerical Algorithms, section 3.5).
"""

from __future__ import annotations

from functools import lru_cache

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import pytest
import safetensors.torch
import torch

from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import lora_makers, small_models

STRENGTHS = [(0.8, 0.5), (-1.0, 0.0), (0.0, 1.0), (2.0, 2.0)]
HALVES = [torch.float16, torch.bfloat16]


def load_with_ours(model, clip, name, strength_model, strength_clip):
    return StrataLoraLoader.execute(name, strength_model, strength_clip, model=model, clip=clip).result


def load_with_core(model, clip, path, strength_model, strength_clip):
    return comfy.sd.load_lora_for_models(model, clip, safetensors.torch.load_file(path), strength_model, strength_clip)


def patched_weights(patcher) -> dict:
    """Every weight as the sampler would see it after a full load."""
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    try:
        return {key: value.clone() for key, value in patcher.model.state_dict().items()}
    finally:
        comfy.model_management.unload_all_models()


def exact_weights(patcher, tensors: dict, names: dict, strength: float, precision=torch.float64) -> dict:
    """(W', |W| + the sizes of the terms of delta W) by the definition, W' = W + strength * alpha / rank * up @ down."""
    weights = patcher.model.state_dict()
    change: dict[str, list] = {}
    for module, key in names.items():
        if f"{module}.lora_up.weight" not in tensors:
            continue
        up, down = (tensors[f"{module}.{factor}.weight"].to(precision) for factor in ("lora_up", "lora_down"))
        alpha = float(tensors.get(f"{module}.alpha", torch.tensor(float(up.shape[1]))))
        scale = strength * alpha / up.shape[1]
        name, part = (key, None) if isinstance(key, str) else (key[0], key[1])
        if (
            not isinstance(key, str) and len(key) > 2
        ):  # diffusers keeps scale before shift, the model shift before scale
            up = torch.cat(up.chunk(2)[::-1])
        found = change.setdefault(name, [weights[name].to(precision), weights[name].to(precision).abs()])
        terms = (scale, up, down), (abs(scale), up.abs(), down.abs())
        for total, (factor, left, right) in zip(found, terms, strict=True):
            view = total if part is None else total.narrow(*part)
            view.add_((left.flatten(1) @ right.flatten(1)).mul_(factor).reshape(view.shape))
    return change


def assert_close(ours: dict, core: dict, exact: dict, dtype: torch.dtype, eps_factor: float):
    for key, weight in ours.items():
        if key not in exact:
            assert torch.equal(weight, core[key]), key
            continue
        value, size = exact[key]
        # Below the smallest normal number the spacing no longer shrinks.
        bound = (size + torch.finfo(dtype).smallest_normal).mul_(eps_factor * torch.finfo(dtype).eps)
        weight = weight.to(value.dtype)
        for other, name in ((core[key], "ComfyUI"), (value, "the definition")):
            excess = float((weight - other.to(value.dtype)).abs_().div_(bound).max())
            assert excess <= 1, f"{key}: {excess:.3g} times the allowed distance from {name}"


def check(folder, model, clip, names, clip_names, strengths, dtype, seed=3):
    tensors = lora_makers.kohya(names, lora_makers.shapes(model.model), dtype=dtype, seed=seed)
    if clip is not None:
        tensors |= lora_makers.kohya(clip_names, lora_makers.shapes(clip.cond_stage_model), dtype=dtype, seed=seed + 1)
    name = folder.save("plain.safetensors", tensors)
    sides = [(model, 0, names, strengths[0])] + ([] if clip is None else [(clip, 1, clip_names, strengths[1])])
    before = [{k: v.clone() for k, v in _patcher(side).model.state_dict().items()} for side, *_ in sides]
    ours = load_with_ours(model, clip, name, *strengths)
    core = load_with_core(model, clip, folder.path / name, *strengths)
    factor = 8 if dtype == torch.float32 else 2
    for (side, index, side_names, strength), base in zip(sides, before, strict=True):
        exact = exact_weights(_patcher(side), tensors, side_names, strength)
        assert len(exact) > 10
        our_patcher, core_patcher = _patcher(ours[index]), _patcher(core[index])
        assert_close(patched_weights(our_patcher), patched_weights(core_patcher), exact, dtype, factor)
        if strength != 0:
            assert_close(low_vram(our_patcher), low_vram(core_patcher), exact, dtype, factor)
        after = _patcher(side).model.state_dict()
        assert all(torch.equal(after[key], value) for key, value in base.items()), "a base weight changed"
        assert not _patcher(side).patches, "the node changed its input"


def low_vram(patcher) -> dict:
    """Each patched weight as ComfyUI's low-VRAM path computes it at every forward."""
    weights = patcher.model.state_dict()
    return {
        key: comfy.model_patcher.LowVramPatch(key, patcher.patches)(weights[key].clone()) for key in patcher.patches
    }


def _patcher(side):
    return getattr(side, "patcher", side)


@lru_cache(maxsize=1)
def made(dtype, model, clip=None):
    """The model and its text encoders, once for the tests that follow each other: ``check`` proves that it leaves them as they were."""
    return model(dtype), clip and clip(dtype)


@pytest.mark.parametrize("strengths", STRENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_sd15(lora_folder, strengths, dtype):
    model, clip = made(dtype, small_models.sd15, small_models.sd15_clip)
    names, clip_names = lora_makers.unet_names(model), lora_makers.clip_names(clip, "lora_te_")
    check(lora_folder, model, clip, names, clip_names, strengths, dtype)


@pytest.mark.parametrize("strengths", STRENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_sdxl(lora_folder, strengths, dtype):
    model, clip = made(dtype, small_models.sdxl, small_models.sdxl_clip)
    names = lora_makers.unet_names(model)
    clip_names = lora_makers.clip_names(clip, "lora_te1_") | lora_makers.clip_names(clip, "lora_te2_")
    check(lora_folder, model, clip, names, clip_names, strengths, dtype)


@pytest.mark.parametrize("strengths", STRENGTHS)
@pytest.mark.parametrize("prefix", ["lora_unet_", "transformer."], ids=["fused qkv", "split qkv"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_flux(lora_folder, strengths, prefix, dtype):
    model, _ = made(dtype, small_models.flux)
    names = lora_makers.unet_names(model, prefix)
    assert any(isinstance(key, tuple) for key in names.values()) == (prefix == "transformer.")
    check(lora_folder, model, None, names, {}, (strengths[0] or 1.0, 0.0), dtype)


@pytest.mark.parametrize(
    ("prefix", "having"), [("lora_unet_", "_blocks_"), ("transformer.", "")], ids=["fused qkv", "split qkv"]
)
def test_flux_at_its_real_width(lora_folder, prefix, having):
    depth = {"depth": 0} if having else {}  # the fused case needs no second look at the same layers
    model = small_models.flux(torch.bfloat16, **small_models.FLUX | depth)
    names = lora_makers.unet_names(model, prefix, having)
    tensors = lora_makers.kohya(names, lora_makers.shapes(model.model), dtype=torch.bfloat16)
    name = lora_folder.save("wide.safetensors", tensors)
    ours = load_with_ours(model, None, name, 0.8, 0.0)[0]
    core = load_with_core(model, None, lora_folder.path / name, 0.8, 0.0)[0]
    for key in ours.patches:  # one weight at a time: all of them in float32 would take several GB
        some = {module: target for module, target in names.items() if key in (target, target[0])}
        exact = exact_weights(model, tensors, some, 0.8, torch.float32)
        weights = [{key: patcher.patch_weight_to_device(key, return_weight=True)} for patcher in (ours, core)]
        assert_close(*weights, exact, torch.bfloat16, 2)
    assert len(ours.patches) == (3 if having else 23)


def test_a_control_lora_that_widens_its_input(lora_folder):
    """BFL's FLUX control LoRAs: ``img_in`` takes twice the channels, biases change and norms are replaced."""
    model = small_models.flux(torch.float32)
    weights = model.model.state_dict()
    generator = torch.Generator().manual_seed(4)
    make = lambda *size: 0.05 * torch.randn(*size, generator=generator)  # noqa: E731
    out, into = weights["diffusion_model.img_in.weight"].shape
    scale = weights["diffusion_model.single_blocks.0.norm.key_norm.weight"].shape
    tensors = {
        "img_in.lora_B.weight": make(out, 4),
        "img_in.lora_A.weight": make(4, 2 * into),
        "img_in.lora_B.bias": make(out),
        "single_blocks.0.norm.key_norm.scale": make(*scale),
    }
    name = lora_folder.save("control.safetensors", tensors)
    ours = load_with_ours(model, None, name, 0.7, 0.0)[0]
    found = {key: ours.patch_weight_to_device(key, return_weight=True) for key in ours.patches}
    product = 0.7 * tensors["img_in.lora_B.weight"].double() @ tensors["img_in.lora_A.weight"].double()
    product[:, :into] += weights["diffusion_model.img_in.weight"].double()
    assert torch.allclose(found["diffusion_model.img_in.weight"].double(), product, atol=1e-7)
    bias = weights["diffusion_model.img_in.bias"] + 0.7 * tensors["img_in.lora_B.bias"]
    assert torch.allclose(found["diffusion_model.img_in.bias"], bias, atol=1e-7)
    core = load_with_core(model, None, lora_folder.path / name, 0.7, 0.0)[0]
    for key in core.patches:
        assert torch.allclose(found[key], core.patch_weight_to_device(key, return_weight=True), atol=1e-7), key
    applied = patched_weights(ours)
    assert applied["diffusion_model.img_in.weight"].shape == (out, 2 * into)
    after = model.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in weights.items()), "a base weight changed"
