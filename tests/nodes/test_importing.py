"""Other packs' rows, written by hand from their documented formats, against the rows that they mean."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.lora_math.errors import StrataError
from strata.lora_math.rows_text import acting, problems, read_rows
from strata.nodes.loader import NO_LORA
from strata.nodes.rows.importing import imported

RGTHREE = [
    {},
    {"type": "PowerLoraLoaderHeaderWidget"},
    {"on": True, "lora": "F1.dev\\GL8-lora.safetensors", "strength": 1, "strengthTwo": None},
    {"on": False, "lora": "b.safetensors", "strength": 0.5, "strengthTwo": 0.25},
    {},
    "",
]
MANAGER = [
    {"version": 1, "textWidgetName": "text"},
    "<lora:a:0.60> <lora:b:1.00>",
    [
        {"name": "a", "strength": 0.6, "active": True, "expanded": False, "clipStrength": 0.6, "selected": False},
        {"name": "b", "strength": "1.00", "active": False, "clipStrength": 0.5, "locked": False},
    ],
]
CASES = {
    "rgthree in a workflow": (
        {"nodes": [{"type": "Power Lora Loader (rgthree)", "widgets_values": RGTHREE}]},
        "<lora:F1.dev\\GL8-lora.safetensors:1>\noff <lora:b.safetensors:0.5:0.25>",
    ),
    "rgthree in a prompt": (
        {"3": {"class_type": "Power Lora Loader (rgthree)", "inputs": {
            "PowerLoraLoaderHeaderWidget": {"type": "x"},
            "lora_2": {"on": True, "lora": "b.safetensors", "strength": 0.5},
            "lora_1": {"on": False, "lora": "a.safetensors", "strength": -1, "strengthTwo": 0},
            "\u2795 Add Lora": "", "model": ["1", 0]}}},
        "off <lora:a.safetensors:-1:0>\n<lora:b.safetensors:0.5>",
    ),
    "Lora Manager in a workflow": (
        {"type": "Lora Loader (LoraManager)", "widgets_values": MANAGER},
        "<lora:a:0.6>\noff <lora:b:1:0.5>",
    ),
    "Lora Manager in a prompt": (
        {"inputs": {"text": "x", "loras": {"__value__": MANAGER[2]}}},
        "<lora:a:0.6>\noff <lora:b:1:0.5>",
    ),
    "Efficiency, simple": (
        {"type": "LoRA Stacker", "widgets_values": ["simple", 2, "a.safetensors", 0.5, 1, 1, "b.safetensors", 0.25, 1, 1, "c", 1, 1, 1]},
        "<lora:a.safetensors:0.5>\n<lora:b.safetensors:0.25>",
    ),
    "Efficiency, advanced": (
        {"type": "LoRA Stacker", "widgets_values": ["advanced", 2, "a.safetensors", 1, 0.5, 0.25, "None", 1, 1, 1]},
        "<lora:a.safetensors:0.5:0.25>",
    ),
    "Comfyroll": (
        {"type": "CR LoRA Stack", "widgets_values": ["On", "a.safetensors", 0.5, 0.25, "Off", "b.safetensors", 1, 1, "On", "None", 1, 1]},
        "<lora:a.safetensors:0.5:0.25>\noff <lora:b.safetensors:1>",
    ),
    "Easy-Use": (
        {"type": "easy loraStack", "widgets_values": [True, "advanced", 1, "a.safetensors", 1, 0.5, 0.25, "b.safetensors", 1, 1, 1]},
        "<lora:a.safetensors:0.5:0.25>",
    ),
    "Easy-Use, off": (
        {"type": "easy loraStack", "widgets_values": [False, "simple", 1, "a.safetensors", 0.7, 1, 1]},
        "off <lora:a.safetensors:0.7>",
    ),
    "ComfyUI's rows": (
        {"inputs": {"loras.0.lora_name": "a.safetensors", "loras.0.strength": 0.5, "loras.0.enabled": False,
                    "loras.2.lora_name": "b.safetensors", "loras.2.strength": -1}},
        "off <lora:a.safetensors:0.5>\n<lora:b.safetensors:-1>",
    ),
    "ComfyUI's rows in a workflow": (
        {"type": "LoadLoraModel", "widgets_values": ["x", 2, "a.safetensors", 1, True, "b.safetensors", 0.6, False]},
        "<lora:a.safetensors:1>\noff <lora:b.safetensors:0.6>",
    ),
    "a chain of loaders": (
        [{"type": "LoraLoader", "widgets_values": ["a.safetensors", 0.5, 0.25]},
         {"type": "LoraLoaderModelOnly", "widgets_values": ["b.safetensors", 0.7]},
         {"type": "LoraLoader", "mode": 4, "widgets_values": ["c.safetensors", 1, 1]},
         {"type": "StrataLoraLoader", "widgets_values": ["d.safetensors", 1, 0.5, "live", "warn"]}],
        "<lora:a.safetensors:0.5:0.25>\n<lora:b.safetensors:0.7:0>\noff <lora:c.safetensors:1>\n<lora:d.safetensors:1:0.5>",
    ),
    "a stack as Python has it": ([["a.safetensors", 1.0, 0.5], ["None", 1, 1]], "<lora:a.safetensors:1:0.5>"),
    "ours": ({"type": "StrataLoraStack", "widgets_values": ["# x\noff <lora:a:1> // n", 0]}, "# x\noff <lora:a:1> // n"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rows_of_others(case):
    data, wanted = CASES[case]
    assert imported(json.dumps(data)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("# a\noff <lora:x:1> // note\n\n", "# a\noff <lora:x:1> // note"),
        ("a cat, <lora:x:1>, <lora:y:.5>\nNegative prompt: dog\nSteps: 20", "<lora:x:1>\n<lora:y:0.5>"),
        ("<lora:x:1> <lora:y:1>", "<lora:x:1>\n<lora:y:1>"),
        (
            "a cat <lora:ink:0.7>, drawn\nNegative prompt: <lora:bob:1> bad\nhands <lora:ugly:0.4>\nSteps: 20, Sampler: Euler a",
            "<lora:ink:0.7>\noff <lora:bob:1> // negative prompt\noff <lora:ugly:0.4> // negative prompt",
        ),
    ],
)
def test_text(text, wanted):
    assert imported(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{}",
        "[]",
        "[1, 2]",
        '{"nodes": []}',
        "{broken",
        "[" * 5000,
        '{"lora_1": {"on": 1}}',
        '{"a": {"lora_name": 7}}',
        '{"lora_name_%s": "a"}' % ("9" * 5000),
        '{"type": ["StrataLoraStack"], "widgets_values": [5]}',
        '{"strength": %s}' % ("9" * 5000),
    ],
)
def test_what_has_none_says_so(text):
    with pytest.raises(StrataError, match="LoRA"):
        imported(text)


def test_numbers_that_make_no_sense_are_the_usual_ones():
    rows = [{"on": True, "lora": "a", "strength": value, "strengthTwo": None} for value in ("x", None, True)]
    assert imported(json.dumps({"w": rows})) == "\n".join(["<lora:a:1>"] * 3)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ([["a", 1, 1], ["b", 1, "1e999"]], "<lora:a:1>\n<lora:b:1:1e999>"),
        ({"on": False, "lora": "a", "strength": 5000}, "off <lora:a:5000>"),
        ({"type": "LoraLoader", "widgets_values": ["a.pt", 250, 0.5]}, "<lora:a.pt:250:0.5>"),
        ([["a", float("nan"), 10**400]], f"<lora:a:nan:1{'0' * 39}>"),
    ],
)
def test_what_is_no_strength_stays_and_is_marked(data, wanted):
    assert imported(json.dumps(data)) == wanted
    last = read_rows(wanted)[-1]
    assert (last.kind == "unread" and "is no strength" in last.problem) or "is not a number" in last.problem


STACK = "strata rows 1\n# Style\n<lora:a:1>\noff # Faces\n<lora:b:1>"
SWITCHED_OFF = "# Style\noff <lora:a:1>\noff # Faces\noff <lora:b:1>"


@pytest.mark.parametrize("mode", [2, 4])
def test_a_muted_stack_is_off(mode):
    node = {"type": "StrataLoraStack", "mode": mode, "widgets_values": [STACK, 0]}
    assert imported(json.dumps(node)) == SWITCHED_OFF
    node["widgets_values"][0] = "a <lora:a:1>, <lora:b:1>\n<lora:c:abc>\nlock <lora:d:1>"
    found = read_rows(imported(json.dumps(node)))
    assert acting(found) == [] and problems(found) == []


def test_what_stands_behind_a_stack_is_not_of_its_last_group():
    nodes = [
        {"type": "StrataLoraStack", "widgets_values": [STACK]},
        {"type": "LoraLoader", "widgets_values": ["c", 1, 1]},
    ]
    text = imported(json.dumps(nodes))
    assert [tag.name for step in acting(read_rows(text)) for tag in step.tags] == ["a", "c"]


def test_a_loader_that_holds_no_lora_is_no_row():
    nodes = [{"type": "StrataLoraLoader", "widgets_values": [name, 1, 1]} for name in (NO_LORA, "a")]
    assert imported(json.dumps(nodes)) == "<lora:a:1>"


@pytest.mark.parametrize(
    "text",
    [
        "# Style\n<lora:a:1>\noff # Faces\n<lora:b:1>\nsome words of mine",
        "pick # One of\n<lora:a:1>\n<lora:b:1>\nhello <lora:c:1>",
        "<lora:a:1>\noff <lora:b:1>\nwords",
        "// mine\na cat <lora:a:1>",
    ],
)
def test_of_a_stacks_text_every_line_stays(text):
    assert imported(f"{text}\n") == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<lora:a:1>\n<lora:b:abc>", "<lora:a:1>\n<lora:b:abc>"),
        ("a cat, <lora:a:1>\n<lora:b:abc> x\na dog", "<lora:a:1>\n<lora:b:abc> x"),
        ("a {<lora:a:1>|<lora:b:1>} cat", "a {<lora:a:1>|<lora:b:1>} cat"),
        ("a <lora:a:1>\nNegative prompt: b <lora:b:x>", "<lora:a:1>\noff Negative prompt: b <lora:b:x>"),
        ("off # x\na <lora:a:1>\nNegative prompt: b", "off <lora:a:1>"),
    ],
)
def test_a_tag_that_is_not_understood_stays(text, wanted):
    assert imported(text) == wanted


KEYS = st.sampled_from(
    [
        "type",
        "mode",
        "widgets_values",
        "inputs",
        "nodes",
        "rows",
        "lora",
        "on",
        "strength",
        "strengthTwo",
        "name",
        "active",
        "lora_name",
    ]
    + [
        "lora_1",
        "lora_2_name",
        "lora_name_3",
        "lora_wt_3",
        "model_str_3",
        "switch_3",
        "loras.4.lora_name",
        "toggle",
        "lora_count",
    ]
    + ["input_mode"]
)
LEAVES = st.sampled_from(
    [
        "a",
        "None",
        "",
        "CR LoRA Stack",
        "easy loraStack",
        "LoRA Stacker",
        "LoraLoader",
        "StrataLoraStack",
        "simple",
        "<lora:a:1>",
        "\ud800",
    ]
    + [1, 0.5, -1e308, 10**30, float("nan"), True, False, None, "Off", "1e999"]
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=40
)


@given(TREES)
def test_any_document_is_rows_or_a_sentence(tree):
    try:
        text = imported(json.dumps(tree))
    except StrataError:
        return
    rows = read_rows(text)
    assert rows and "\n".join(row.line for row in rows) == text
    for row in rows:
        for tag in row.tags:
            assert abs(tag.strength_model) <= 100 and abs(tag.strength_clip) <= 100
