"""A patched weight is as near to the float64 one as rounding it once allows, for every algorithm."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy.model_patcher import LowVramPatch

from strata.nodes.comfy import patch
from strata.tests.nodes.helpers import adapter_makers, small_models

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
STRENGTH = 0.7


def fully_loaded(patcher) -> dict:
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    try:
        weights = patcher.model.state_dict()
        return {key: weights[key].clone() for key in patcher.patches}
    finally:
        comfy.model_management.unload_all_models()


def low_vram(patcher) -> dict:
    """As ComfyUI computes each weight that does not stay on the device, at every forward."""
    weights = patcher.model.state_dict()
    return {key: LowVramPatch(key, patcher.patches)(weights[key].clone()) for key in patcher.patches}


def error(weights: dict, exact: dict) -> float:
    return sum(float((weights[key].double() - exact[key]).square().sum()) for key in exact) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", adapter_makers.MAKERS)
def test_the_error_is_that_of_rounding_the_result(kind, dtype):
    model = small_models.sd15(dtype)
    changes = {
        key: [(STRENGTH, adapter) for _, adapter in terms]
        for key, terms in adapter_makers.everywhere(model, adapter_makers.MAKERS[kind]).items()
    }
    base = {key: weight.clone() for key, weight in model.model.state_dict().items()}
    exact = {key: base[key].double() for key in changes}
    for key, [(strength, adapter)] in changes.items():
        exact[key] += adapter.delta(exact[key], strength, torch.float64)
    allowed = 2 * error({key: weight.to(dtype) for key, weight in exact.items()}, exact)
    assert allowed > 0 and len(exact) > 100
    patched = model.clone()
    patch.add(patched, changes)
    for way in (fully_loaded, low_vram):
        assert error(way(patched), exact) <= allowed, way.__name__
    assert all(torch.equal(weight, base[key]) for key, weight in model.model.state_dict().items())
