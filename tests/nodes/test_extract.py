"""Extract LoRA: what was patched onto a model comes back as a file that ComfyUI's own loader puts on again."""

from __future__ import annotations

import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.nodes.extract import StrataLoraExtract
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import lora_makers, small_models
from strata.tests.nodes.helpers.saved_loras import assert_same, by_core, weights


def extract(**settings):
    given = {"rank": 4, "shrink": "exact", "amount": 0.0, "filename_prefix": "made", "precision": "fp32"} | settings
    return StrataLoraExtract.execute(**given).result


def test_a_patched_model_gives_its_lora_back(lora_folder, output):
    model = small_models.flux()
    tensors = lora_makers.kohya(
        lora_makers.unet_names(model, "lora_unet_"), lora_makers.shapes(model.model), rank=4, dtype=torch.float32
    )
    name = lora_folder.save("one.safetensors", tensors)
    patched = StrataLoraLoader.execute(name, 0.7, 0.0, model=model).result[0]
    saved, _, report = extract(model=patched, base_model=model)
    assert_same(patched, by_core(model, None, saved)[0], model, 2e-4)  # float32 weights were subtracted
    assert "rank 4" in report.splitlines()[0]
    smaller, _, report = extract(model=patched, base_model=model, shrink="rank", amount=2)
    core, own, mine = weights(by_core(model, None, smaller)[0]), model.model.state_dict(), weights(patched)
    norm = sum(float((w - own[k]).double().square().sum()) for k, w in mine.items()) ** 0.5
    lost = sum(float((core[k] - w).double().square().sum()) for k, w in mine.items()) ** 0.5
    assert f"error {100 * lost / norm:.2g} %" in report.splitlines()[0]


def test_norms_biases_and_text_encoders_go_along(lora_folder, output):
    clip, tuned = small_models.sd15_clip(), small_models.sd15_clip()
    changed = {}
    for key, parameter in tuned.cond_stage_model.named_parameters():
        if "layers.1." in key:
            parameter.data.add_(0.25)
            changed[key] = parameter.data.clone()
    saved, found, _ = extract(clip=tuned, base_clip=clip, rank=8)
    assert any(key.endswith(".diff_b") for key in found) and any(
        key.endswith(".lora_up.weight") or key.endswith(".lora_B.weight") for key in found
    )
    core = weights(by_core(None, clip, saved)[1].patcher)
    assert set(core) == set(changed)
    for key, value in changed.items():
        assert torch.allclose(core[key], value, rtol=0, atol=1e-4), key


@pytest.mark.parametrize(
    "connected, says",
    [
        ((), "Nothing is connected"),
        (("model",), "Connect base_model too"),
        (("base_model",), "Connect model too"),
        (("model", "base_model"), "nothing to extract"),
    ],
)
def test_faults_are_sentences(connected, says, lora_folder, output):
    with pytest.raises(StrataError, match=says):
        extract(**dict.fromkeys(connected, small_models.flux()))


def test_models_of_two_families_are_refused(lora_folder, output):
    with pytest.raises(StrataError, match="different families"):
        extract(model=small_models.flux(), base_model=small_models.flux(hidden_size=48, axes_dim=[4, 10, 10]))
