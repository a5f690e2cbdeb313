"""Each input of each node missing, null or of a wrong type: a sentence that names it. And nodes that nothing is connected to."""

import json
import os

import pytest
import torch

from strata.lora_math.blocks import save_preset
from strata.lora_math.errors import StrataError
from strata.nodes import seen_files
from strata.nodes.block_weights import StrataLoraBlockWeights
from strata.nodes.extract import StrataLoraExtract
from strata.nodes.inspect_lora import StrataLoraInspect
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack
from strata.nodes.prompt import StrataLoraFromPrompt
from strata.nodes.save import StrataLoraSave
from strata.nodes.schedule import StrataLoraSchedule
from strata.tests.nodes.helpers import lora_makers, small_models

LORA = {"lora_unet_x.lora_up.weight": torch.ones(4, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 4)}
GOOD = {
    StrataLoraLoader: {
        "lora_name": "a.safetensors",
        "strength_model": 1.0,
        "strength_clip": 1.0,
        "apply": "patch",
        "on_problem": "error",
        "mask": None,
        "text_tokens": "masked",
    },
    StrataLoraFromPrompt: {"text": "<lora:a>", "two_numbers": "model:clip", "on_problem": "error"},
    StrataLoraBlockWeights: {"layout": "auto", "preset": "none", "weights": "", "seed": 0, "invert": False},
    StrataLoraStack: {"rows": "<lora:a>", "seed": 0, "apply": "patch", "on_problem": "error", "masks": None},
    StrataLoraInspect: {"lora_name": "a.safetensors", "theme": "dark"},
    StrataLoraSchedule: {"strength": "0@0", "positive": 1.0, "negative": 1.0},
    StrataLoraSave: {
        "method": "dare",
        "shrink": "rank",
        "amount": 1.0,
        "folder": "output/loras",
        "precision": "fp32",
        "layout": "best",
        "spectral_limit": 0.0,
        "density": 0.5,
        "drop_seed": 0,
        "keep_empty_layers": False,
        "thumbnail": None,
    },
}
SAVED = {
    "filename_prefix": "made",
    "lora_stack": [("a.safetensors", 1.0, 1.0)],
}  # beside the settings of StrataLoraSave
MUST = {"lora_name", "text", "weights", "preset"}  # null is an error; elsewhere it is the default
WRONG = [
    (node, name, value)
    for node, names in GOOD.items()
    for name in names
    for value in (None, [1], {"a": 1}, 5, True, "\0odd", float("nan"), 10**5000)
]
FITS = {
    **dict.fromkeys(("strength_model", "strength_clip"), (None, 5)),
    "seed": (None, 5),
    "invert": (None, True),
    **dict.fromkeys(("apply", "on_problem", "two_numbers", "layout", "theme", "text_tokens"), (None,)),
    "text": ("\0odd",),
    "rows": (None,),
    **dict.fromkeys(("positive", "negative", "spectral_limit", "drop_seed"), (None, 5)),
    "amount": (5,),
    "keep_empty_layers": (None, True),
    **dict.fromkeys(
        ("method", "shrink", "folder", "precision", "layout", "density", "thumbnail", "mask", "masks"), (None,)
    ),
}


def hidden(node, prompt=None, unique_id="7"):
    """The node's class as ComfyUI runs it."""
    return type(node.__name__, (node,), {"hidden": type("Hidden", (), {"prompt": prompt, "unique_id": unique_id})})


class FakePatcher:
    def add_patches(self, *_):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("node", "name", "value"),
    WRONG,
    ids=[
        f"{n.__name__[10:]}-{i}-{v:.8}" if isinstance(v, str) else f"{n.__name__[10:]}-{i}-{type(v).__name__}"
        for n, i, v in WRONG
    ],
)
def test_a_wrong_value_is_a_sentence_that_names_the_input(lora_folder, output, node, name, value):
    lora_folder.save("a.safetensors", LORA)
    more = SAVED if node is StrataLoraSave else {}
    call = lambda: hidden(node, {"7": {"inputs": {}}}).execute(**more, **{**GOOD[node], name: value})  # noqa: E731
    if any(value == fine and type(value) is type(fine) for fine in FITS.get(name, ())):
        call()
        return
    with pytest.raises(StrataError) as error:
        call()
    assert name in str(error.value) or value == "\0odd", str(error.value)
    assert str(error.value)[0].isupper() or str(error.value).startswith((name, "'"))


@pytest.mark.parametrize("node", GOOD)
def test_whatever_is_left_out_has_its_default_or_a_sentence(lora_folder, output, node):
    lora_folder.save("a.safetensors", LORA)
    more = SAVED if node is StrataLoraSave else {}
    for name in GOOD[node]:
        some = {key: value for key, value in GOOD[node].items() if key != name}
        if name in ("lora_name", "text", "strength"):
            with pytest.raises(StrataError, match=f"{name} is missing"):
                hidden(node, {"7": {"inputs": {}}}).execute(**some)
        else:
            hidden(node, {"7": {"inputs": {}}}).execute(**more, **some)


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        *(
            (value, "^filename_prefix is ")
            for value in (None, 5, [1], "", " ", "..", r"x\..", "%date:.%", "a\0b", "a\nb", "\ud800", "x" * 9)
        ),
        ("../" + "x" * 5000, "^filename_prefix .{1,80} leads out"),
        ("/etc/x", "^filename_prefix '/etc/x' leads out"),
        (r"\..\x", "^filename_prefix .{1,20} leads out"),
        ("C:\\x", "^filename_prefix: 'C:' holds :, which"),
        ("nul/x", "^filename_prefix: 'nul' is the name of a device"),
        ("%KSampler.seed%", "^filename_prefix: '%KSampler.seed%' is not known"),
    ],
    ids=repr,
)
def test_a_file_is_saved_under_its_name_or_not_at_all(lora_folder, output, prefix, says):
    lora_folder.save("a.safetensors", LORA)
    save = lambda: StrataLoraSave.execute(lora_stack=SAVED["lora_stack"], filename_prefix=prefix)  # noqa: E731
    if prefix == "x" * 9:
        assert save().result[0] == "xxxxxxxxx_00001_.safetensors"
        return
    with pytest.raises(StrataError, match=says):
        save()
    assert [path.name for path in output.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["model", "clip", "base_model", "base_clip"])
@pytest.mark.parametrize("value", ["x", 5, [1]])
def test_extracting_names_what_is_no_model(output, name, value):
    with pytest.raises(StrataError, match=rf"^{name} is .*, not a (MODEL|CLIP)\."):
        StrataLoraExtract.execute(1, "exact", 0.0, "made", **{name: value})


@pytest.mark.parametrize("value", [torch.ones(2), torch.ones(0, 4, 4, 3), torch.ones(1, 4, 4, 2), ["x"]])
def test_a_thumbnail_is_a_picture(lora_folder, output, value):
    lora_folder.save("a.safetensors", LORA)
    with pytest.raises(StrataError, match=r"^thumbnail is not an IMAGE"):
        StrataLoraSave.execute(**SAVED, thumbnail=value)
    for channels in (1, 3, 4):
        StrataLoraSave.execute(**SAVED, thumbnail=torch.ones(1, 4, 4, channels))


def test_a_stack_of_another_pack_is_read_as_its_three_values(lora_folder):
    """Whatever else hangs on its rows, and however large they are."""
    lora_folder.save("a.safetensors", LORA)
    row = type("Row", (tuple,), {"block_weights": [1], "keyframes": "x"})(("a.safetensors", 1.0, 1.0))
    node = hidden(StrataLoraLoader, {"7": {"inputs": {}}})
    assert list(map(tuple, node.execute("Choose a LoRA", lora_stack=[row]).result[4])) == [tuple(row)]
    for wrong in (("a.safetensors", 10**400, 1.0), ["x"] * 100_000):
        with pytest.raises(StrataError, match=r"^The LORA_STACK holds .{1,200}, which is not"):
            node.execute("Choose a LoRA", lora_stack=[wrong])


@pytest.mark.parametrize("rows", [5, [1], {"a": 1}, b"x"])
def test_rows_that_are_no_text_reach_the_node(rows):
    """ComfyUI turns an exception of a fingerprint into a log line and runs the node each time."""
    assert StrataLoraStack.fingerprint_inputs(rows) == ""


@pytest.mark.parametrize("name", ["model", "clip"])
@pytest.mark.parametrize("value", ["x", 5, torch.ones(2)])
@pytest.mark.parametrize("node", [StrataLoraLoader, StrataLoraFromPrompt, StrataLoraStack, StrataLoraInspect])
def test_what_is_no_model_is_named(lora_folder, node, name, value):
    lora_folder.save("a.safetensors", LORA)
    with pytest.raises(StrataError, match=rf"^{name} is .*, not a {name.upper()}"):
        node.execute(**GOOD[node], **{name: value})


def test_the_null_of_a_program_is_not_the_preset_of_zeros():
    """ComfyUI makes the text "None" of it, and there is a preset NONE."""
    with pytest.raises(StrataError, match=r"^weights is 'None'"):
        StrataLoraBlockWeights.execute("auto", "none", "None", 0, False)
    assert "default=0" in StrataLoraBlockWeights.execute("SDXL", "none", "NONE", 0, False).result[1]


class TestUnconnected:
    def test_a_loader_runs_for_whatever_but_model_and_clip_is_wired(self, lora_folder):
        lora_folder.save("faces/detail.safetensors", LORA, {"modelspec.trigger_phrase": "ohwx"})
        for output in (2, 3, 4):
            node = hidden(StrataLoraLoader, {"7": {"inputs": {}}, "8": {"inputs": {"x": ["7", output]}}})
            model, clip, words, report, stack = node.execute("detail", 0.5, 0.5).result
            assert (model, clip, words) == (None, None, "ohwx")
            assert list(map(tuple, stack)) == [("faces/detail.safetensors", 0.5, 0.5)]
            assert "faces/detail.safetensors: handed on as LORA_STACK, nothing is connected here" in report
            assert "Asked for 'detail': used faces/detail.safetensors" in report
            assert "rank 2" in report

    @pytest.mark.parametrize("output", [0, 1])
    def test_a_loader_whose_model_or_clip_is_wired_says_what_is_missing(self, lora_folder, output):
        name = lora_folder.save("a.safetensors", LORA)
        node = hidden(StrataLoraLoader, {"7": {"inputs": {}}, "8": {"inputs": {"x": ["7", output], "y": ["7", 4]}}})
        with pytest.raises(StrataError, match="connect MODEL, CLIP or both"):
            node.execute(name, 1.0, 1.0)

    def test_a_prompt_without_model_is_about_its_files(self, lora_folder):
        lora_folder.save("a.safetensors", LORA, {"modelspec.trigger_phrase": "ohwx"})
        lora_folder.save("faces/b.safetensors", LORA)
        out = StrataLoraFromPrompt.execute("cat <lora:a:0.5> <lora:FACES\\B>", "model:clip").result
        assert out[2:4] == ("cat", "ohwx")
        assert [entry[0] for entry in out[5]] == ["a.safetensors", "faces/b.safetensors"]
        with pytest.raises(StrataError, match="'gone' is not in your loras folders"):
            StrataLoraFromPrompt.execute("cat <lora:gone>", "model:clip")
        assert (
            "'gone' is not in"
            in StrataLoraFromPrompt.execute("cat <lora:gone>", "model:clip", on_problem="warn").result[4]
        )

    def test_the_stack_of_another_pack_goes_on_under_listed_names(self, lora_folder):
        lora_folder.save("faces/detail.safetensors", LORA)
        lora_folder.save("a.safetensors", LORA)
        node = hidden(StrataLoraLoader, {"7": {"inputs": {}}})
        given = [("faces\\detail.safetensors", 1.0, 0.5), ("None", 1, 1)]
        stack = node.execute("a", 1.0, 1.0, lora_stack=given).result[4]
        assert list(map(tuple, stack)) == [("faces/detail.safetensors", 1.0, 0.5), ("a.safetensors", 1.0, 1.0)]


def test_the_report_names_the_file_that_was_used(lora_folder):
    model = small_models.sd15()
    lora_folder.save("hands/detail.safetensors", lora_makers.full_lora(model))
    ask = lambda name: StrataLoraLoader.execute(name, 1.0, 1.0, model=model).result[3].splitlines()  # noqa: E731
    first, second, *_ = ask("faces/detail")
    assert first.startswith("hands/detail.safetensors: all ")
    assert second == "Asked for 'faces/detail': used hands/detail.safetensors, the only file of that name"
    for plain in ("hands/detail.safetensors", "hands\\detail", str(lora_folder.path / "hands" / "detail.safetensors")):
        first, second, *_ = ask(plain)
        assert first.startswith("hands/detail.safetensors: all ")
        assert "Asked for" not in second


class TestFingerprints:
    @pytest.fixture(autouse=True)
    def forgotten(self):
        seen_files._nodes.clear()

    def test_a_file_that_is_replaced_while_the_text_comes_over_a_link(self, lora_folder):
        name = lora_folder.save("a.safetensors", LORA)
        node = hidden(StrataLoraFromPrompt)
        before = node.fingerprint_inputs(text=None)
        node.execute("<lora:a>", "model:clip")
        assert node.fingerprint_inputs(text=None) == before, "the second run would sample again for nothing"
        os.utime(lora_folder.path / name, ns=(5, 5))
        changed = node.fingerprint_inputs(text=None)
        assert changed != before
        node.execute("<lora:a>", "model:clip")
        assert node.fingerprint_inputs(text=None) == changed
        assert hidden(StrataLoraFromPrompt, unique_id="8").fingerprint_inputs(text=None) == before

    def test_a_file_in_a_stack_that_is_replaced(self, lora_folder):
        name, other = lora_folder.save("a.safetensors", LORA), lora_folder.save("b.safetensors", LORA)
        node = hidden(StrataLoraLoader, {"7": {"inputs": {}}})
        node.execute(name, 1.0, 1.0, lora_stack=[(other, 1, 1)])
        before = node.fingerprint_inputs(lora_name=name)
        os.utime(lora_folder.path / other, ns=(5, 5))
        assert node.fingerprint_inputs(lora_name=name) != before

    @pytest.mark.parametrize("form", ["mine", "lbw=Mine", "invert(mine)", "mine;"])
    def test_a_preset_by_name_follows_its_file(self, lora_folder, tmp_path, monkeypatch, form):
        file = tmp_path / "block_presets.json"
        monkeypatch.setattr("strata.nodes.fitting.block_spec.user_preset_file", lambda: str(file))
        lora_folder.save("a.safetensors", LORA)
        node, linked = StrataLoraBlockWeights, hidden(StrataLoraFromPrompt)
        text = f"<lora:a:lbw={form}>"
        linked.execute(text, "model:clip")

        def prints():
            own = node.fingerprint_inputs(weights=form, preset="none")
            return own, linked.fingerprint_inputs(text=text), linked.fingerprint_inputs()

        seen = [prints()]
        for weights in ("IN*=0", "IN*=0.5"):
            save_preset(file, "SDXL", "mine", weights)
            seen.append(prints())
        save_preset(file, "SDXL", "another", "IN*=0.5")
        assert prints() == seen[-1], "another preset's change is not this text's"
        for column in zip(*seen, strict=True):
            assert len(set(column)) == 3

    def test_rules_by_name_are_nobodys_preset(self):
        assert StrataLoraBlockWeights.fingerprint_inputs(weights="IN4=0.5", preset="MIDD") == ""
        assert StrataLoraBlockWeights.fingerprint_inputs(weights="", preset="none") == ""
        assert StrataLoraBlockWeights.fingerprint_inputs(weights="", preset="MIDD") != ""

    @pytest.mark.parametrize("value", [5, [1], {"a": 1}, "<lora:", "gone"])
    def test_a_fingerprint_never_raises(self, lora_folder, value):
        for node in (StrataLoraLoader, StrataLoraFromPrompt, StrataLoraBlockWeights):
            for name in GOOD[node]:
                assert isinstance(node.fingerprint_inputs(**{name: value}), str)


def test_a_moved_slider_opens_no_file(lora_folder, tmp_path, monkeypatch):
    """Beside the LoRA lie a sidecar and a configuration, and the person has presets of their own."""
    file = tmp_path / "block_presets.json"
    monkeypatch.setattr("strata.nodes.fitting.block_spec.user_preset_file", lambda: str(file))
    save_preset(file, "SD1.5", "mine", "IN*=0.5")
    model = small_models.sd15()
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model))
    (lora_folder.path / "a.json").write_text(json.dumps({"activation text": "ohwx"}))
    run = lambda strength: StrataLoraLoader.execute(name, strength, 1.0, model=model, block_weights="mine").result  # noqa: E731
    assert run(0.5)[2] == "ohwx"
    opened = []
    with monkeypatch.context() as watching:
        real = open
        watching.setattr(
            "builtins.open", lambda path, *more, **named: (opened.append(path), real(path, *more, **named))[1]
        )
        assert run(0.7)[2] == "ohwx"
    assert not opened
