"""Many LoRAs as text in one node, against a chain of loaders and against what the text says."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import comfy.hooks
import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.lora_math.rows_text import acting, read_rows, reduced
from strata.lora_math.schedule import Variation, parse
from strata.nodes import seen_files
from strata.nodes.apply_lora import Changing
from strata.nodes.comfy.live import loras_of
from strata.nodes.comfy.patch import StrataPatch
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack, choose, used_text
from strata.nodes.rows.words import described
from strata.nodes.stack import StackEntry
from strata.tests.nodes.helpers import lora_makers, small_models


@pytest.fixture(scope="module")
def models():
    return small_models.sd15(), small_models.sd15_clip()


@pytest.fixture(scope="module")
def tensors(models):
    return [lora_makers.full_lora(*models, seed=number, dtype=torch.float32, rank=2) for number in range(5)]


@pytest.fixture
def folder(lora_folder, tensors):
    for number, name in enumerate(("one", "sub/two", "sub/three", "sub/deep/four", "odd: <name>")):
        lora_folder.save(f"{name}.safetensors", tensors[number], {"modelspec.trigger_phrase": f"word {number}"})
    return lora_folder


def stack(rows, models=(None, None), **settings):
    return StrataLoraStack.execute(rows, model=models[0], clip=models[1], **settings)


def chain(models, *loras, **settings):
    model, clip = models
    for name, strength_model, strength_clip, *blocks in loras:
        found = StrataLoraLoader.execute(
            name, strength_model, strength_clip, model=model, clip=clip, block_weights=(blocks or [None])[0], **settings
        )
        model, clip = found.result[:2]
    return model, clip


def weights(side) -> dict:
    patcher = getattr(side, "patcher", side)
    return {key: patcher.patch_weight_to_device(key, return_weight=True) for key in patcher.patches}


def assert_same(found, wanted):
    for one, other in zip(found[:2], wanted, strict=True):
        one, other = weights(one), weights(other)
        assert one
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


ROWS = r"""# Style
<lora:one:0.5:0.25>
off <lora:sub/three:1> // not today
<lora:sub\two:0.75:lbw=OUT*=1,default=0>
off # Faces
<lora:one:1>
# Rest
lock <lora:odd\: \<name\>:-0.5> // has a strange name"""
CHAIN = (
    ("one.safetensors", 0.5, 0.25),
    ("sub/two.safetensors", 0.75, 0.75, "OUT*=1,default=0"),
    ("odd: <name>.safetensors", -0.5, -0.5),
)


@pytest.mark.parametrize("rows", [ROWS, reduced(read_rows(ROWS))])
def test_rows_are_the_chain_of_their_loras(folder, models, rows):
    found = stack(rows, models).result
    assert_same(found, chain(models, *CHAIN))
    assert [tuple(entry) for entry in found[2]] == [
        ("one", 0.5, 0.25),
        ("sub\\two", 0.75, 0.75),
        ("odd: <name>", -0.5, -0.5),
    ]
    assert found[3] == "word 0, word 1, word 4"
    assert found[5] == r"<lora:one:0.5:0.25> <lora:two:0.75:lbw=OUT*=1,default=0> <lora:odd\: \<name\>:-0.5>"


def test_live_rows_are_live(folder, models):
    model, clip = stack("<lora:one:0.5>\n<lora:sub/two:0.5>", models, apply="live").result[:2]
    assert not model.patches
    assert clip.patcher.patches


def test_fifty_rows_are_one_clone_and_one_patch_a_weight(folder, models, monkeypatch):
    clones = []
    original = Changing.clone
    monkeypatch.setattr(Changing, "clone", lambda self: clones.append(id(found := original(self))) or found)
    rows = "\n".join(f"<lora:{('one', 'sub/two', 'sub/three')[n % 3]}:{0.01 * (n + 1):.2f}>" for n in range(50))
    model, clip = stack(rows, models).result[:2]
    assert set(clones) == {id(model), id(clip)}
    for patches in (model.patches, clip.patcher.patches):
        assert patches
        assert all(len(found) == 1 and isinstance(found[0][1], StrataPatch) for found in patches.values())
        assert {len(found[0][1].weights[1]) for found in patches.values()} == {50}


def test_the_same_rows_are_the_same_patched_model(folder, models):
    """ComfyUI patches nothing anew, also where the loaders were a chain before."""
    one, other = stack(ROWS, models).result[0], stack(reduced(read_rows(ROWS)), models).result[0]
    assert one.patches_uuid == other.patches_uuid
    assert (
        stack("<lora:one:0.4>", models).result[0].patches_uuid != stack("<lora:one:0.5>", models).result[0].patches_uuid
    )


@pytest.mark.parametrize(
    "rows", ["", "\n\n", "// a note", "# a heading", "off <lora:gone:1>", "off # x\n<lora:gone:1>", None]
)
def test_nothing_that_is_on_changes_nothing(folder, models, rows):
    found = stack(rows, models).result
    assert found[0] is models[0]
    assert found[1] is models[1]
    assert found[2:] == ([], "", "No LoRA: nothing changed", "", None)


def test_an_incoming_stack_comes_first(folder, models):
    before = [("sub/two.safetensors", 0.25, 0.5), ("None", 1, 1)]
    found = stack("<lora:one:1>", models, lora_stack=before).result
    assert_same(found, chain(models, ("sub/two.safetensors", 0.25, 0.5), ("one.safetensors", 1, 1)))
    assert [tuple(entry) for entry in found[2]] == [("sub/two.safetensors", 0.25, 0.5), ("one", 1, 1)]
    assert before == [("sub/two.safetensors", 0.25, 0.5), ("None", 1, 1)]


def test_without_model_and_clip_it_hands_on_a_stack(folder):
    found = stack("<lora:one:1>\n<lora:sub/two:0.5:0>")
    assert found.result[:2] == (None, None)
    assert [tuple(entry) for entry in found.result[2]] == [("one", 1, 1), ("sub/two", 0.5, 0)]
    assert found.result[4] == "2 LoRAs handed on as LORA_STACK; no MODEL or CLIP is connected"


@pytest.mark.parametrize("rows", [7, ["<lora:one:1>"], {"rows": ""}, True])
def test_rows_that_are_no_text_are_refused(folder, rows):
    with pytest.raises(StrataError, match="rows input takes text"):
        stack(rows)


def test_a_line_that_is_not_understood_stops_or_is_said(folder, models):
    rows = "<lora:one:0.5:0.25>\nstrange words\n<lora:sub/two:x>"
    with pytest.raises(StrataError, match=r"Line 2 .*\nLine 3 .*'x' is not a number"):
        stack(rows, models)
    found = stack(rows, models, on_problem="warn")
    assert_same(found.result, chain(models, ("one.safetensors", 0.5, 0.25)))
    assert found.result[4].startswith("Line 2 ")
    assert found.ui["strata_warned"] == [True]


def test_a_missing_file_stops_or_is_said(folder, models):
    rows = "<lora:gone:1>\n<lora:one:0.5:0.25>"
    assert "'gone' is not in your loras folders" in StrataLoraStack.validate_inputs(rows=rows)
    assert StrataLoraStack.validate_inputs(rows=rows, on_problem="warn") is True
    assert StrataLoraStack.validate_inputs(rows=f"off {rows}") is True
    with pytest.raises(StrataError, match="'gone'"):
        stack(rows, models)
    found = stack(rows, models, on_problem="warn")
    assert_same(found.result, chain(models, ("one.safetensors", 0.5, 0.25)))
    assert found.result[5] == "<lora:one:0.5:0.25>", "what was left out was not used"
    assert [(part["name"], part["warned"]) for part in found.ui["strata_rows"]] == [("gone", True), ("one", False)]


class TestPicks:
    ROWS = "pick <lora:sub/*:0.5>\npick # eyes\n<lora:one:1>\n<lora:sub/deep/four:1>\n#\n<lora:one:0.25>"

    def test_every_file_of_the_folder_comes_and_no_other(self, folder):
        picks = {choose("pick <lora:sub/*:0.5>", seed).tags[0].name for seed in range(60)}
        assert picks == {"sub/two.safetensors", "sub/three.safetensors"}
        picks = {choose("pick <lora:sub/**:0.5>", seed).tags[0].name for seed in range(60)}
        assert picks == {"sub/two.safetensors", "sub/three.safetensors", "sub/deep/four.safetensors"}

    def test_one_row_of_the_group(self, folder):
        found = {tuple(tag.name for tag in choose(self.ROWS, seed).tags[1:]) for seed in range(60)}
        assert found == {("one", "one"), ("sub/deep/four", "one")}

    @pytest.mark.parametrize("seed", range(5))
    def test_the_pick_is_said_and_used(self, folder, models, seed):
        tags = choose(self.ROWS, seed).tags
        found = stack(self.ROWS, models, seed=seed).result
        assert_same(found, chain(models, *((tag.name, tag.strength_model, tag.strength_clip) for tag in tags)))
        assert f"Picked by seed {seed}: {tags[0].name}, of 2 in sub/*" in found[4]
        assert f"<lora:{tags[0].name.split('/')[-1].removesuffix('.safetensors')}:0.5>" in found[5]
        assert choose(reduced(read_rows(self.ROWS)), seed).tags == tags, "the prompt's text picks the same"

    def test_rows_that_are_off_do_not_move_a_pick(self, folder):
        for seed in range(20):
            with_more = f"off <lora:one:1>\noff pick <lora:sub/*:0.5>\n{self.ROWS}"
            assert choose(with_more, seed).tags == choose(self.ROWS, seed).tags

    def test_two_rows_that_pick_the_same_pick_apart(self, folder):
        twice = [choose("pick <lora:sub/*:0.5>\npick <lora:sub/*:0.5>", seed).tags for seed in range(40)]
        assert {first == second for first, second in twice} == {True, False}

    def test_an_empty_folder_is_said(self, folder, models):
        with pytest.raises(StrataError, match="'nothing/', which has no LoRA files"):
            stack("pick <lora:nothing/*:1>", models)
        assert "nothing/" in StrataLoraStack.validate_inputs(rows="pick <lora:nothing/*:1>")

    def test_with_warn_an_empty_folder_is_left_out_and_said(self, folder, models):
        rows = "pick <lora:nothing/*:1>\n<lora:one:1>"
        found = stack(rows, models, on_problem="warn")
        assert_same(found.result, chain(models, ("one", 1.0, 1.0)))
        assert found.ui["strata_warned"] == [True]
        assert "'nothing/', which has no LoRA files" in found.ui["strata_verdict"][0]
        assert "'nothing/', which has no LoRA files" in found.result[4].splitlines()[0]

    def test_the_node_runs_again_when_its_folder_changes(self, folder, models):
        before = {seed: StrataLoraStack.fingerprint_inputs(rows="pick <lora:sub/*:1>", seed=seed) for seed in range(20)}
        folder.save("sub/zero.safetensors", lora_makers.full_lora(*models, seed=9, rank=2))
        after = {seed: StrataLoraStack.fingerprint_inputs(rows="pick <lora:sub/*:1>", seed=seed) for seed in range(20)}
        assert before != after


def test_a_replaced_file_runs_again(folder, models):
    before = StrataLoraStack.fingerprint_inputs(rows="<lora:one:1>", seed=0)
    assert before == StrataLoraStack.fingerprint_inputs(rows="# x\n<lora:one:1> // note", seed=0)
    folder.save("one.safetensors", lora_makers.full_lora(*models, seed=9, rank=3))
    assert before != StrataLoraStack.fingerprint_inputs(rows="<lora:one:1>", seed=0)


class TestReplacedFiles:
    """A run of the same inputs after a file was replaced is another run, wherever the file is named."""

    LINKED = {
        "rows over a link": ({"rows": "<lora:one:1>"}, {"rows": None}),
        "a stack of another pack": ({"rows": "", "lora_stack": [("one.safetensors", 1.0, 1.0)]}, {"rows": ""}),
        "beside a missing one": ({"rows": "<lora:nope:1>\n<lora:one:1>"}, {"rows": "<lora:nope:1>\n<lora:one:1>"}),
        "beside an empty folder": ({"rows": "pick <lora:no/*:1>\n<lora:one>"}, {"rows": "pick <lora:no/*:1>\n<lora:one>"}),
    }  # fmt: skip

    @pytest.mark.parametrize("case", LINKED)
    def test_is_noticed(self, folder, models, case):
        run, asked = self.LINKED[case]
        seen_files._nodes.clear()
        hidden = {"hidden": SimpleNamespace(unique_id="7")}
        node = type(StrataLoraStack.__name__, (StrataLoraStack,), hidden)
        node.execute(model=models[0], on_problem="warn", **run)
        before = node.fingerprint_inputs(**asked)
        assert before == node.fingerprint_inputs(**asked)
        os.utime(folder.path / "one.safetensors", ns=(5, 5))
        assert before != node.fingerprint_inputs(**asked)
        seen_files._nodes.clear()


def test_what_no_tag_says_is_said(folder, models):
    half = Variation(parse("0@0%, 1@50%"), 0.5, 0.5)
    hooks = comfy.hooks.HookKeyframeGroup()
    hooks.add(comfy.hooks.HookKeyframe(0.5))
    entries = [
        StackEntry("one.safetensors", 0.8, 0.3, BlockSpec("M*=1,default=0.25", invert=True), half),
        StackEntry("sub/two.safetensors", 1, 1, None, Variation(None, 1.0, 0.0)),
        StackEntry("sub/three.safetensors", 1, 1, None, hooks),
        StackEntry("sub/deep/four.safetensors", 1, 1, mask=torch.ones(8, 8)),
    ]
    report, text = stack("", models, lora_stack=entries).result[4:6]
    assert (
        text
        == "<lora:one:0.4:0.3:lbw=invert(M*=1,default=0.25):at=0@0%, 1@50%> <lora:two:1> <lora:three:1> <lora:four:1>"
    )
    told = [line for line in report.splitlines() if line.startswith("loras_text leaves out")]
    assert [line.split(" of ", 1)[1] for line in told] == [
        "sub/two: x 0 on the negative prompt, where the positive one has x 1",
        "sub/three: its keyframes",
        "sub/deep/four: its mask",
    ]


def test_names_of_the_output_are_bare_where_they_can_be():
    entries = [
        StackEntry("a/x.safetensors", 1, 1),
        StackEntry("b\\x.safetensors", 0.5, 0.25),
        StackEntry("c/y.pt", 1, 0),
    ]
    assert used_text(entries) == "<lora:a/x:1> <lora:b/x:0.5:0.25> <lora:y:1:0>"
    assert [tag.name for step in acting(read_rows(used_text(entries))) for tag in step.tags] == ["a/x", "b/x", "y"]


def test_a_strength_over_time_in_a_row_goes_where_the_row_goes(folder, models):
    found = stack(
        "<lora:one:0.8:0:lbw=M*=1,default=0.5:start=1:stop=3>\n<lora:two:1:at=fade in>\n<lora:one:0.5>",
        models,
        apply="patch",
    )
    model, _, handed, _, report, text = found.result[:6]
    assert [entry.keyframes for entry in handed] == ["hold: 0@0s, 1@1s, 0@3s", "fade in", None]
    assert [lora.keyframes for lora in loras_of(model)] == [parse("hold: 0@0s, 1@1s, 0@3s"), parse("0@0%, 1@100%")]
    assert report.count("its strength follows the keyframes") == 2
    assert text.startswith("<lora:one:0.8:0:lbw=M*=1,default=0.5:at=hold:0@0s, 1@1s, 0@3s> <lora:two:1:at=fade in> ")
    assert read_rows(text)[0].tags[0].time == "hold: 0@0s, 1@1s, 0@3s"
    row = described("<lora:one:1:lbw=M*=1:start=1>")["rows"][0]
    assert (row["time"], row["blocks"], row["head"]) == ("hold: 0@0s, 1@1s", "M*=1", "<lora:one")
    assert row["tail"] == ":lbw=M*=1:at=hold:0@0s, 1@1s"


def test_what_the_browser_is_told_is_json(folder, models):
    found = stack(TestPicks.ROWS, models)
    assert json.loads(json.dumps(found.ui)) == found.ui
