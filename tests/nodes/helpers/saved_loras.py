"""What a saved LoRA does to a model, by ComfyUI's own loader and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import comfy.lora
import comfy.model_detection
import comfy.sd
import folder_paths
import safetensors.torch
import torch

from . import core_models, small_models

# Families in ComfyUI's own classes, with few and narrow layers.
NARROW = {
    "Z-Image": {
        "dim": 96,
        "cap_feat_dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "axes_dims": [8, 8, 8],
    },
    "Wan 14B": {"dim": 96, "num_heads": 4, "ffn_dim": 128, "num_layers": 2},
    "Qwen-Image": {"num_layers": 2, "attention_head_dim": 24, "num_attention_heads": 4, "joint_attention_dim": 48},
}


def family_models() -> dict[str, Callable]:
    """Family -> what builds its ModelPatcher."""
    found = {"SD1.5": small_models.sd15, "SDXL": small_models.sdxl, "FLUX.1": small_models.flux}
    return found | {name: partial(_narrow, name, changes) for name, changes in NARROW.items()}


def _narrow(name: str, changes: dict):
    kind = type(comfy.model_detection.model_config_from_unet_config(dict(core_models.CONFIGS[name])))
    return small_models.build(kind, {**core_models.CONFIGS[name], **changes})


def weights(patcher) -> dict[str, torch.Tensor]:
    """Every weight that is patched, computed as ComfyUI computes it."""
    own = patcher.model.state_dict()
    return {
        key: comfy.lora.calculate_weight(patches, own[key].clone(), key) for key, patches in patcher.patches.items()
    }


def by_core(model, clip, name: str):
    path = folder_paths.get_full_path_or_raise("loras", name)
    return comfy.sd.load_lora_for_models(model, clip, safetensors.torch.load_file(path), 1.0, 1.0)


def assert_same(ours, cores, base, tolerance: float, least: int = 6):
    """The change of every weight, not the weight: an error in it must not hide behind the weight's size."""
    mine, theirs, own = weights(ours), weights(cores), base.model.state_dict()
    assert len(mine) >= least
    for key in theirs.keys() - mine.keys():
        assert torch.equal(theirs[key], own[key]), f"{key} is changed by the file alone"
    for key, weight in mine.items():
        change = weight - own[key]
        found = theirs.get(key, own[key]) - own[key]
        error = float((found - change).double().norm())
        # What adding to a float32 weight rounds off is no fault of the file.
        bound = tolerance * float(change.double().norm()) + 1e-6 * float(own[key].double().norm())
        assert error <= bound, f"{key}: {error / max(float(change.double().norm()), 1e-30):.2g}"
