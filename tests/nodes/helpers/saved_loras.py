"""What a saved LoRA does to a model, by ComfyUI's own loader and arithmetic."""

from __future__ import annotations

import comfy.lora
import comfy.sd
import folder_paths
import safetensors.torch
import torch


def weights(patcher) -> dict[str, torch.Tensor]:
    """Every weight that is patched, computed as ComfyUI computes it."""
    own = patcher.model.state_dict()
    return {
        key: comfy.lora.calculate_weight(patches, own[key].clone(), key) for key, patches in patcher.patches.items()
    }


def by_core(model, clip, name: str):
    path = folder_paths.get_full_path_or_raise("loras", name)
    return comfy.sd.load_lora_for_models(model, clip, safetensors.torch.load_file(path), 1.0, 1.0)


def assert_same(ours, cores, base, tolerance: float):
    """The change of every weight, not the weight: an error in it must not hide behind the weight's size."""
    mine, theirs, own = weights(ours), weights(cores), base.model.state_dict()
    assert len(mine) > 5
    for key, weight in mine.items():
        change = weight - own[key]
        found = theirs.get(key, own[key]) - own[key]
        error = float((found - change).double().norm())
        # What adding to a float32 weight rounds off is no fault of the file.
        bound = tolerance * float(change.double().norm()) + 1e-6 * float(own[key].double().norm())
        assert error <= bound, f"{key}: {error / max(float(change.double().norm()), 1e-30):.2g}"
