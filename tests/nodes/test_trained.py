"""A LORA_MODEL, as Train LoRA gives it, is used like a file: beside ComfyUI's own way of applying one, with everything a loader has."""

from __future__ import annotations

import comfy.sd
import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.loader import NO_LORA, StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack
from strata.nodes.save import StrataLoraSave
from strata.tests.nodes.helpers import lora_makers, small_models
from strata.tests.nodes.helpers.saved_loras import assert_same, by_core, weights


def trained(model, seed: int = 0, prefix: str = "diffusion_model.") -> dict[str, torch.Tensor]:
    names, shapes = lora_makers.unet_names(model, prefix), lora_makers.shapes(model.model)
    return lora_makers.kohya(names, shapes, dtype=torch.float32, seed=seed)


def load(lora_model, model, strength=0.7, **more):
    return StrataLoraLoader.execute(NO_LORA, strength, 1.0, model=model, lora_model=lora_model, **more).result


@pytest.mark.parametrize("family, prefix", [("sd15", "diffusion_model."), ("flux", "lora_unet_")])
def test_it_acts_as_cores_own_loader_makes_it_act(family, prefix):
    model = getattr(small_models, family)()
    tensors = trained(model, prefix=prefix)
    core = comfy.sd.load_lora_for_models(model, None, tensors, 0.7, 0.0)[0]
    found, *_, report, _ = load(tensors, model)
    assert_same(core, found, model, 5e-6)
    assert report.startswith("LORA_MODEL: all ")


def test_block_weights_act_on_it_as_on_a_file(lora_folder):
    model = small_models.sd15()
    tensors, blocks = trained(model), BlockSpec("IN*=0.3,M0=0,OUT*=1.2")
    name = lora_folder.save("same.safetensors", tensors)
    file = StrataLoraLoader.execute(name, 0.7, 1.0, model=model, block_weights=blocks).result[0]
    assert_same(file, load(tensors, model, block_weights=blocks)[0], model, 1e-9)


def test_it_runs_live_and_over_time():
    model = small_models.sd15()
    found, *_, report, _ = load(trained(model), model, apply="live")
    assert "\nLive: " in report and not found.patches
    assert "0@0%, 1@100%" in load(trained(model), model, keyframes="0@0%, 1@100%")[3]


def test_it_takes_the_place_of_the_file_and_says_so(lora_folder):
    model = small_models.sd15()
    name = lora_folder.save("other.safetensors", trained(model, 1))
    tensors = trained(model)
    result = StrataLoraLoader.execute(name, 0.7, 1.0, model=model, lora_model=tensors).result
    assert_same(load(tensors, model)[0], result[0], model, 1e-9)
    assert result[3].splitlines()[-1].startswith(f"lora_name ({name}) is not used: a LORA_MODEL")


def test_it_goes_on_in_the_stack_to_every_node_of_this_pack(lora_folder, output):
    """Loader -> stack -> Save: the file is what the chain made of the model."""
    model = small_models.sd15()
    tensors, blocks = trained(model), BlockSpec("IN*=0.3,default=1")
    *_, stack = load(tensors, model, block_weights=blocks)
    ((name, strength, _),) = stack  # other packs unpack three
    assert (name, strength) == ("LORA_MODEL", 0.7)
    file = lora_folder.save("file.safetensors", trained(model, 1))
    ours, _, stack, *_ = StrataLoraStack.execute(f"<lora:{file[:-12]}:-0.4>", model=model, lora_stack=stack).result
    saved = StrataLoraSave.execute(
        lora_stack=stack,
        model=model,
        method="sum",
        shrink="exact",
        amount=0.0,
        filename_prefix="made",
        precision="fp32",
    ).result[0]
    assert_same(ours, by_core(model, None, saved)[0], model, 5e-6)


def test_a_stack_applies_it_at_strength_one_before_its_rows(lora_folder):
    model = small_models.sd15()
    tensors = trained(model)
    file = lora_folder.save("file.safetensors", trained(model, 1))
    found, _, stack, _, report, tags, *_ = StrataLoraStack.execute(
        f"<lora:{file[:-12]}:0.5>", model=model, lora_model=tensors
    ).result
    expected = StrataLoraLoader.execute(file, 0.5, 1.0, model=load(tensors, model, 1.0)[0]).result[0]
    assert_same(expected, found, model, 5e-6)
    assert [entry[:2] for entry in stack] == [("LORA_MODEL", 1.0), ("file", 0.5)]
    assert "LORA_MODEL: all " in report and tags == "<lora:file:0.5>"


def test_numbers_that_change_in_place_are_another_lora():
    """A training may go on with the very tensors that it gave out."""
    model = small_models.sd15()
    tensors = trained(model)
    before = load(tensors, model)[0]
    for tensor in tensors.values():
        tensor *= 2
    after = load(tensors, model)[0]
    assert before.patches_uuid != after.patches_uuid
    one, two = weights(before), weights(after)
    assert any(not torch.equal(one[key], two[key]) for key in one)
    assert load(tensors, model)[0].patches_uuid == after.patches_uuid


@pytest.mark.parametrize(
    "value, says",
    [
        ("text", "takes a LORA_MODEL, of Train LoRA or Save LoRA .Strata., not a str"),
        ({"a": 3}, "takes a LORA_MODEL"),
        ({}, "holds no LoRA that this pack knows .0 tensors"),
        ({"some.weight": torch.ones(2, 2)}, "holds no LoRA that this pack knows .1 tensors, such as some.weight"),
    ],
)
def test_what_is_none_is_a_sentence(value, says, lora_folder, output):
    model = small_models.sd15()
    for run in (
        lambda: load(value, model),
        lambda: StrataLoraStack.execute("", model=model, lora_model=value),
        lambda: StrataLoraSave.execute("sum", "exact", 0.0, "made", lora_model=value),
    ):
        with pytest.raises(StrataError, match=says):
            run()


def test_nan_in_it_is_said():
    model = small_models.sd15()
    tensors = trained(model)
    tensors[next(key for key in tensors if key.endswith(".lora_up.weight"))][0, 0] = float("nan")
    with pytest.raises(StrataError, match="Damaged"):
        load(tensors, model)
