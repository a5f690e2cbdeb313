"""The values of an axis as text: A1111's grammar by a table made by hand, and laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.lora_math.errors import StrataError
from strata.nodes.sweep import axes, values

# What A1111's X/Y/Z plot makes of it, by its own wiki and code.
NUMBERS = {
    "0.4, 0.8": [0.4, 0.8],
    "0-1(+0.2)": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
    "0-1[6]": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
    "1-5": [1, 2, 3, 4, 5],
    "1-5 (+2)": [1, 3, 5],
    "10-5 (-3)": [10, 7],
    "1-3 (+0.5)": [1, 1.5, 2, 2.5, 3],
    "0.5-1.0 [2]": [0.5, 1.0],
    "-1-1": [-1, 0, 1],
    "-1--3": [-1, -2, -3],
    "-0.5-0.5(+.5)": [-0.5, 0, 0.5],
    "0-1(+0.3)": [0, 0.3, 0.6, 0.9],
    "7": [7],
    "1, 1, 1.0, 2": [1, 2],
    "0-1[1]": [0],
    "0-1[4]": [0, 0.333333333333, 0.666666666667, 1],
    " 0.2 ,, 0.3 ": [0.2, 0.3],
    "0.2\n0.4-0.6(+0.1)\n": [0.2, 0.4, 0.5, 0.6],
    "1e-1": [0.1],
    "2-0.5(-0.5)": [2, 1.5, 1, 0.5],
}
WHOLE = {"1-10 [5]": [1, 3, 5, 7, 10], "20, 30": [20, 30], "3-1": [3, 2, 1], "20-50(+10)": [20, 30, 40, 50]}
WRONG = [
    *("", "  ", "a", "0.4; 0.8", "0-1(0.2)", "0-1(+0)", "0-1(-0.2)", "1-0(+1)", "0-1[0]", "0-1[2000]", "0-1(+1e-9)"),
    *("0-1(+.)", "1e999", "nan", "0-1(+1--1)", '"0.4', "0-1[6", "1_0", "1-2-3"),
]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers(text):
    assert values.numbers(text, "x") == NUMBERS[text]


@pytest.mark.parametrize("text", WHOLE)
def test_whole_numbers(text):
    found = values.numbers(text, "x", whole=True)
    assert found == WHOLE[text] and all(type(each) is int for each in found)


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_number_is_said(text):
    with pytest.raises(StrataError, match=r"^(x_values|The quote)"):
        values.numbers(text, "x_values")


@pytest.mark.parametrize("text", ["0.5", "-1", "1-2(+0.5)", "99999999999999999999999"])
def test_what_is_no_whole_number_is_said(text):
    with pytest.raises(StrataError, match="whole numbers"):
        values.numbers(text, "x_values", whole=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a, b", ["a", "b"]),
        ('"a, b", c', ["a, b", "c"]),
        ('"say ""hi""", "" , d', ['say "hi"', "", "d"]),
        ("0@0, 1@1\nfade in", ["0@0, 1@1", "fade in"]),
        ("S{7,12}, D1", ["S{7,12}", "D1"]),
        ('5" nails, b', ['5" nails', "b"]),
        ("}, {, x", ["}", "{, x"]),
        ('"a, b"\n"c"', ["a, b", "c"]),
    ],
)
def test_entries(text, found):
    assert values.entries(text) == found


NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)


@given(st.lists(NAMES, min_size=1, max_size=6))
def test_any_names_come_back_from_quotes(names):
    text = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    assert values.entries(text) == names


@given(st.decimals(-50, 50, places=2), st.decimals(0, 2, places=2), st.decimals("0.01", 1, places=2))
def test_a_range_is_every_step_from_its_start_within_its_end(start, length, step):
    found = values.numbers(f"{start}-{start + length}(+{step})", "x")
    count = int(length / step) + 1
    assert found == [float(start + step * at) for at in range(count)]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_words(text):
    try:
        found = values.numbers(text, "x_values")
    except StrataError as problem:
        assert str(problem)
        return
    assert 1 <= len(found) <= values.MAX_VALUES and len(set(found)) == len(found)


def test_long_texts_are_read_in_one_pass():
    assert len(values.entries('x"' * 45_000)) == 1
    with pytest.raises(StrataError, match="at most"):
        values.entries("1," * 60_000)


STACK = ["style/ink.safetensors", "detail.safetensors"]
FILES = [
    *("style/ink.safetensors", "style/oil.safetensors", "detail.safetensors", "style/old/wash.safetensors"),
    *("my-000002.safetensors", "my-000010.safetensors", "my.safetensors", "mytown.safetensors", "my-v2.safetensors"),
    *("t/cat_000000250.safetensors", "t/cat_000001000.safetensors", "u/cat_000000500.safetensors"),
    *("s-step00000100.safetensors", "s-step00000050.safetensors", "e_e3.safetensors", "e_e12.safetensors"),
]
KNOWN = axes.Known(STACK, lambda: FILES, lambda at: ("D00", "D01", "S00", "OTHER", "TE:clip_l") if at == 0 else ())
ALONE = axes.Known(STACK[:1], KNOWN.files, KNOWN.blocks)


def read(kind, text, known=ALONE):
    return axes.read_axis("x", kind, text, known)


@pytest.mark.parametrize(
    ("text", "rows", "factor"),
    [("row 2: 0, 1", (1,), False), ("ROW ink: 0, 1", (0,), False), ("row style/ink.safetensors:0, 1", (0,), False),
     ("all rows: 0, 1", (0, 1), True), ("row detail:\n0\n1", (1,), False)],
)  # fmt: skip
def test_which_lora_it_is_about(text, rows, factor):
    found = read("strength", text, KNOWN)
    assert (found.rows, found.factor, found.values, found.labels) == (rows, factor, (0, 1), ("0", "1"))


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("strength", "0, 1", "does not say which LoRA"),
        ("strength", "row 3: 0", "no row 3; the stack has 2"),
        ("strength", "row x: 0", "'x' is no LoRA of the stack"),
        ("strength", "row 1: 101", "101 is far beyond"),
        ("LoRA file", "all rows: a", "all rows cannot be one file"),
        ("LoRA file", "row 1: none/*", "finds no LoRA files"),
        ("LoRA file", "row 1: epochs of nobody", "no LoRA file is called 'nobody'"),
        ("LoRA file", "row 1: ", "is empty"),
        ("block weight", "row 1: 0-1[5]", r"such as D\*: 0-1"),
        ("without block", "row 1: ???", "names no blocks"),
        ("without block", "row 2: all", "changes no block"),
        ("strength over time", "row 1: sometimes", "sometimes"),
        ("prompt", '"", b', "must not be empty"),
        ("prompt", "", "is empty"),
        ("steps", "0-3", "from 1 to 10000"),
        ("cfg", "-1", "from 0 to 1000"),
        ("seed", "-1", "whole numbers"),
    ],
)
def test_what_an_axis_cannot_be_is_said(kind, text, says):
    with pytest.raises(StrataError, match=says):
        read(kind, text, KNOWN)


def test_an_axis_of_a_lora_needs_one():
    with pytest.raises(StrataError, match="there is no LoRA to change"):
        read("strength", "0, 1", axes.Known([], KNOWN.files, KNOWN.blocks))
    assert read("none", "anything") is None


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("style/*", ["style/ink", "style/oil"]),
        ("style/**", ["style/ink", "style/oil", "style/old/wash"]),
        ("epochs of my", ["my-000002", "my-000010", "my"]),
        ("epochs of my-000010.safetensors", ["my-000002", "my-000010", "my"]),
        ("epochs of t/cat", ["t/cat_000000250", "t/cat_000001000"]),
        ("epochs of s", ["s-step00000050", "s-step00000100"]),
        ("epochs of e_e12", ["e_e3", "e_e12"]),
        ("anything, else", ["anything", "else"]),
    ],
)
def test_files(entry, found):
    assert [name.removesuffix(".safetensors") for name in read("LoRA file", entry).values] == found


def test_files_are_called_by_the_shortest_name_that_tells_them_apart():
    assert read("LoRA file", "a/x.safetensors, b/x.safetensors, a/y.safetensors").labels == ("a/x", "b/x", "y")


def test_blocks():
    assert read("without block", "all").values == ("D00", "D01", "S00", "OTHER", "TE:clip_l")
    assert read("only block", "groups").values == ("D*", "S*", "OTHER", "TE:clip_l")
    assert read("without block", "d1, S{0,1}.attn").values == ("D1", "S{0,1}.attn")
    found = read("block weight", "TE:clip_l.3: 0, 0.5")
    assert (found.block, found.values, found.name) == ("TE:clip_l.3", (0, 0.5), "weight of TE:clip_l.3")


def test_prompts_and_schedules():
    found = read("prompt", 'fox, cat, ""')
    assert found.values == (("fox", "fox"), ("fox", "cat"), ("fox", "")) and found.labels == ("fox", "cat", "(nothing)")
    assert read("strength over time", "fade in\n0@0, 1@0.5").labels == ("fade in", "0@0, 1@0.5")
