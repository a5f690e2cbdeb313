"""LORA_STACK as other packs pass it, and LoRAs named in a prompt."""

from __future__ import annotations

import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.prompt import CLIP_FIRST, MODEL_FIRST, StrataLoraFromPrompt
from strata.nodes.stack import StackEntry, read_stack
from strata.tests.nodes.helpers import lora_makers, small_models


@pytest.fixture
def sd15(lora_folder):
    model, clip = small_models.sd15(), small_models.sd15_clip()
    for number, name in enumerate(("one.safetensors", "sub/two.safetensors")):
        lora_folder.save(
            name,
            lora_makers.full_lora(model, clip, seed=number, dtype=torch.float32),
            {"modelspec.trigger_phrase": name[:3]},
        )
    return model, clip


def load(*settings, **inputs):
    return StrataLoraLoader.execute(*settings, **inputs).result


def from_prompt(text, model=None, clip=None, two_numbers=MODEL_FIRST, **settings):
    return StrataLoraFromPrompt.execute(text, two_numbers, model=model, clip=clip, **settings).result


def weights(side) -> dict:
    patcher = getattr(side, "patcher", side)
    return {key: patcher.patch_weight_to_device(key, return_weight=True) for key in patcher.patches}


def assert_same(a, b):
    for one, other in zip(a[:2], b[:2], strict=True):
        one, other = weights(one), weights(other)
        assert one.keys() == other.keys()
        assert one
        assert all(torch.allclose(one[key], other[key], rtol=1e-5, atol=1e-7) for key in one)


@pytest.mark.parametrize("stack", [None, [], [("None", 1.0, 1.0)], [None], ()])
def test_an_empty_stack_changes_nothing(sd15, stack):
    model, clip = sd15
    found = load("one.safetensors", 0.5, 0.5, model=model, clip=clip, lora_stack=stack)
    assert_same(found, load("one.safetensors", 0.5, 0.5, model=model, clip=clip))
    assert found[4] == [("one.safetensors", 0.5, 0.5)]


def test_a_stack_is_the_chain_of_its_loras(sd15):
    model, clip = sd15
    foreign = [
        ["sub\\two.safetensors", 0.7, 0.2],
        ("None", 1, 1),
    ]  # lists, Windows paths and "None" rows are in circulation
    stacked = load("one.safetensors", 0.5, 0.4, model=model, clip=clip, lora_stack=foreign)
    first = load("sub/two.safetensors", 0.7, 0.2, model=model, clip=clip)
    assert_same(stacked, load("one.safetensors", 0.5, 0.4, model=first[0], clip=first[1]))
    assert stacked[2] == "sub, one"
    assert foreign == [["sub\\two.safetensors", 0.7, 0.2], ("None", 1, 1)], "the incoming list was changed"


def test_what_goes_out_is_what_other_packs_unpack(sd15):
    model, clip = sd15
    spec = BlockSpec("M=0")
    out = load(
        "one.safetensors",
        0.5,
        0.4,
        model=model,
        clip=clip,
        lora_stack=[("sub/two.safetensors", 1.0, 1.0)],
        block_weights=spec,
    )[4]
    assert [tuple(entry) for entry in out] == [("sub/two.safetensors", 1.0, 1.0), ("one.safetensors", 0.5, 0.4)]
    for name, strength_model, strength_clip in out:
        assert isinstance(name, str)
        assert len((name, strength_model, strength_clip)) == 3
    assert out[1].block_weights is spec
    again = load("one.safetensors", 0.0, 0.0, model=model, clip=clip, lora_stack=out[1:])
    assert not any(".middle_block." in key for key in again[0].patches), "the block weights did not ride along"


NO_STACKS = [
    "text",
    7,
    {"a": 1},
    [("a", 1)],
    [("a", 1, 2, 3)],
    [("a", "x", 1)],
    [(7, 1, 1)],
    [("a", float("nan"), 1)],
]


@pytest.mark.parametrize("value", NO_STACKS)
def test_what_is_no_stack_is_refused(value):
    with pytest.raises(StrataError, match="LORA_STACK"):
        read_stack(value)


def test_a_missing_file_in_a_stack_is_named_or_warned_about(sd15):
    model, clip = sd15
    stack = [("gone.safetensors", 1.0, 1.0)]
    with pytest.raises(StrataError, match=r"gone\.safetensors"):
        load("one.safetensors", 0.5, 0.5, model=model, clip=clip, lora_stack=stack)
    found = load("one.safetensors", 0.5, 0.5, model=model, clip=clip, lora_stack=stack, on_problem="warn")
    assert "gone.safetensors" in found[3]
    assert_same(found, load("one.safetensors", 0.5, 0.5, model=model, clip=clip))


class TestPrompt:
    def test_tags_are_applied_and_taken_out(self, sd15):
        model, clip = sd15
        found = from_prompt("a cat, <lora:one:0.5:0.4>, <lora:two:0.7>, on a mat", model, clip)
        assert found[2] == "a cat, on a mat"
        assert found[3] == "one, sub"
        first = load("one.safetensors", 0.5, 0.4, model=model, clip=clip)
        assert_same(found, load("sub/two.safetensors", 0.7, 0.7, model=first[0], clip=first[1]))
        assert found[5] == [("one.safetensors", 0.5, 0.4), ("sub/two.safetensors", 0.7, 0.7)]

    def test_the_order_of_two_numbers(self, sd15):
        model, clip = sd15
        found = from_prompt("<lora:one:0.5:0.4>", model, clip, CLIP_FIRST)
        assert_same(found, load("one.safetensors", 0.4, 0.5, model=model, clip=clip))

    def test_block_weights_in_a_tag(self, sd15):
        model, clip = sd15
        found = from_prompt("<lora:one:1:lbw=INS>", model, clip)
        assert_same(found, load("one.safetensors", 1.0, 1.0, model=model, clip=clip, block_weights="INS"))
        assert not any(".output_blocks." in key for key in found[0].patches)

    def test_a_text_without_tags_passes_everything_through(self, sd15):
        model, clip = sd15
        found = from_prompt("a cat", model, clip)
        assert found[0] is model
        assert found[1] is clip
        assert found[2] == "a cat"
        assert found[5] == []

    def test_without_model_and_clip_the_tags_become_a_stack(self, sd15):
        found = from_prompt("a <lora:one:0.5>")
        assert found[:3] == (None, None, "a")
        assert found[5] == [("one.safetensors", 0.5, 0.5)]

    def test_a_tag_that_does_not_resolve_is_named(self, sd15):
        model, clip = sd15
        with pytest.raises(StrataError, match="'gone'"):
            from_prompt("<lora:gone:1>", model, clip)
        found = from_prompt("a <lora:gone:1>", model, clip, on_problem="warn")
        assert found[0] is model
        assert "'gone'" in found[4]

    @pytest.mark.parametrize(
        "tag",
        ["lbw=NOPE", "lbw=1,2,3", "lbw=ZZ3=1", "lbw=IN4=1e38", "lbw=invert(", "lbw=%", "lbw={}", "lbw=IN4"],
    )
    def test_of_several_the_one_with_wrong_block_weights_is_named(self, sd15, tag):
        for text in (f"<lora:one:1:lbw=MIDD> <lora:two:1:{tag}>", f"<lora:two:1:{tag}> <lora:one:1>"):
            with pytest.raises(StrataError, match=r"two\.safetensors") as found:
                from_prompt(text, *sd15)
            assert "one.safetensors" not in str(found.value)

    def test_what_else_is_wrong_with_one_of_several_names_it_once(self, sd15, lora_folder):
        lora_folder.save("odd.safetensors", {"x.y": torch.ones(2)})
        stack = [("one.safetensors", 1.0, 1.0), ("sub/two.safetensors", 1e30, 1.0)]
        with pytest.raises(StrataError, match=r"(?s)^strength_model is 1e\+30.*'sub/two\.safetensors'"):
            load("one.safetensors", 1.0, 1.0, model=sd15[0], lora_stack=stack)
        with pytest.raises(StrataError) as found:
            from_prompt("<lora:one:1> <lora:odd:1> <lora:two:1>", *sd15)
        assert str(found.value).count("odd.safetensors") == 1
        with pytest.raises(StrataError) as found:
            from_prompt("<lora:one:1> <lora:gone:1>", *sd15)
        assert str(found.value).count("gone") == 1

    @pytest.mark.parametrize("text", [torch.ones(0), torch.ones(2, 2), [1], {"a": 1}, 5, b"<lora:one:1>", None])
    def test_a_text_of_another_type_has_a_fingerprint_too(self, sd15, text):
        assert StrataLoraFromPrompt.fingerprint_inputs(text) == ""

    def test_the_fingerprint_follows_the_files(self, sd15, lora_folder):
        before = StrataLoraFromPrompt.fingerprint_inputs("<lora:one:1>")
        lora_folder.save(
            "one.safetensors", {"x.lora_up.weight": torch.ones(2, 1), "x.lora_down.weight": torch.ones(1, 2)}
        )
        assert StrataLoraFromPrompt.fingerprint_inputs("<lora:one:1>") != before
        assert StrataLoraFromPrompt.fingerprint_inputs("<lora:gone:1>") == ""


def test_a_stack_entry_is_a_plain_tuple_to_others():
    entry = StackEntry("a", 1.0, 0.5, BlockSpec("M=0"))
    assert entry == ("a", 1.0, 0.5)
    assert isinstance(entry, tuple)
    assert read_stack([entry])[0].block_weights == BlockSpec("M=0")


def test_the_verdict_is_about_the_lora_that_went_wrong(sd15):
    """Of several, the line on the node names the first with a problem, wherever it stands; without one it counts them."""
    model, clip = sd15
    ui = lambda *settings, **more: StrataLoraLoader.execute(*settings, model=model, clip=clip, **more).ui  # noqa: E731
    good = [("one.safetensors", 0.5, 0.5)]
    last = ui("gone.safetensors", 1.0, 1.0, on_problem="warn", lora_stack=good)
    assert "gone.safetensors" in last["strata_verdict"][0]
    assert last["strata_warned"] == [True]
    first = ui("one.safetensors", 1.0, 1.0, on_problem="warn", lora_stack=[("gone.safetensors", 1.0, 1.0)])
    assert "gone.safetensors" in first["strata_verdict"][0]
    assert ui("sub/two.safetensors", 1.0, 1.0, lora_stack=good)["strata_verdict"] == ["2 LoRAs applied"]
