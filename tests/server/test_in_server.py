"""The pack in a real server: what it declares, what the shipped example gives, and how it fails."""

from __future__ import annotations

import copy
import json

import pytest
import safetensors.torch
import torch

from strata.devtools.models import LORAS
from strata.devtools.prompts import SD15_WORKFLOW, small, without_loader
from strata.devtools.server import PromptFailed
from strata.devtools.workflow import nodes_of, to_prompt


@pytest.fixture(scope="module")
def prompt(server):
    """The example workflow, made as small as it goes."""
    return small(
        to_prompt(json.loads(SD15_WORKFLOW.read_text(encoding="utf-8")), server.object_info()), size=64, steps=1
    )


def changed(prompt, **inputs):
    prompt = copy.deepcopy(prompt)
    (loader,) = nodes_of(prompt, "StrataLoraLoader")
    prompt[loader]["inputs"].update(inputs)
    return prompt


def picture(server, prompt) -> bytes:
    """The pixels: the PNG itself holds the prompt."""
    import io

    from PIL import Image

    return Image.open(io.BytesIO(server.image(server.run(prompt)))).tobytes()


def test_object_info(server):
    info = server.object_info("StrataLoraLoader")
    assert info["display_name"] == "LoRA Loader (Strata)"
    assert info["output"] == ["MODEL", "CLIP", "STRING", "STRING", "LORA_STACK"]
    assert info["output_name"][2:] == ["trigger_words", "report", "LORA_STACK"]
    inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
    assert {"model", "clip", "block_weights"} <= info["input"]["optional"].keys()
    for name in ("strength_model", "strength_clip"):
        kind, options = inputs[name]
        assert kind == "FLOAT"
        assert (options["default"], options["min"], options["max"], options["step"]) == (1.0, -100.0, 100.0, 0.01)
        assert options["display"] == "slider"
    assert inputs["on_problem"][1]["advanced"] is True
    assert all(options.get("tooltip") for _, options in inputs.values())
    names = server.get_json("/models/loras")
    assert set(LORAS) <= set(names)


def test_strengths_change_the_image_and_zero_does_not(server, prompt):
    at = lambda strength: picture(  # noqa: E731
        server, changed(prompt, lora_name=next(iter(LORAS)), strength_model=strength, strength_clip=strength)
    )
    without = picture(server, without_loader(prompt))
    assert at(0.0) == without
    images = {strength: at(strength) for strength in (-0.8, 0.8)}
    assert len({without, *images.values()}) == 3
    assert picture(server, without_loader(prompt)) == without, "the model did not come back"


def test_a_name_from_windows_runs(server, prompt):
    folder = server.base / "models" / "loras" / "Sub"
    folder.mkdir(exist_ok=True)
    source = server.base / "models" / "loras" / next(iter(LORAS))
    (folder / "win.safetensors").write_bytes(source.read_bytes())
    server.run(changed(prompt, lora_name="sub\\win.safetensors", strength_model=0.5))


def test_a_missing_file_is_refused_before_it_runs(server, prompt):
    with pytest.raises(PromptFailed, match=r"'gone\.safetensors' is not in your loras folders"):
        server.run(changed(prompt, lora_name="gone.safetensors"))


def test_a_lora_of_another_family_fails_on_our_node_with_our_words(server, prompt):
    module = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{module}.lora_up.weight": torch.ones(640, 4), f"{module}.lora_down.weight": torch.ones(4, 2048)}
    safetensors.torch.save_file(tensors, server.base / "models" / "loras" / "xl.safetensors")
    wrong = changed(prompt, lora_name="xl.safetensors")
    with pytest.raises(PromptFailed) as failure:
        server.run(wrong)
    assert failure.value.node_id == nodes_of(prompt, "StrataLoraLoader")[0]
    assert "SDXL LoRA, the model is SD1.5: xl.safetensors" in failure.value.exception_message
    entry = server.run(changed(wrong, on_problem="warn"))
    said = entry["outputs"][failure.value.node_id]
    assert said["strata_warned"] == [True]
    assert "the model is SD1.5" in said["strata_report"][0]


def test_block_weights_over_the_wire(server, prompt):
    lora = next(iter(LORAS))
    (loader,) = nodes_of(prompt, "StrataLoraLoader")
    weighted = changed(prompt, lora_name=lora, strength_model=0.8, block_weights=["900", 0])
    weighted["900"] = {
        "class_type": "StrataLoraBlockWeights",
        "inputs": {"layout": "auto", "preset": "none", "weights": "M=0.5, default=0", "seed": 0, "invert": False},
    }
    report = server.run(weighted)["outputs"][loader]["strata_report"][0]
    assert "M00 x 0.5" in report
    assert "IN01 x 0:" in report
    assert picture(server, weighted) != picture(server, changed(prompt, lora_name=lora, strength_model=0.8))
