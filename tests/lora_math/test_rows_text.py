"""The text of a LoRA stack against hand-written readings, and its laws for any text."""

import json
import string
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from strata.lora_math.regions import Region
from strata.lora_math.rows_text import (
    Acting,
    FolderFiles,
    acting,
    is_in_folder,
    lora_row,
    picked,
    problems,
    read_rows,
    reduced,
)
from strata.lora_math.tags import LoraTag, read_tags

laws = settings(max_examples=300)
A, B, C = LoraTag("a", 1, 1), LoraTag("b", 0.5, 0.5), LoraTag("c", 0.5, 0.25)


def row(line):
    (found,) = read_rows(line)
    return found


@pytest.mark.parametrize(
    ("line", "on", "locked", "pick", "tag", "note"),
    [
        ("<lora:a:1>", True, False, False, A, ""),
        ("  <lora:a>  ", True, False, False, A, ""),
        ("off <lora:b:0.5>", False, False, False, B, ""),
        ("OFF lock <lora:b:0.5> // too dark, see https://x.org", False, True, False, B, "too dark, see https://x.org"),
        ("lock off <lora:b:0.5>//note <lora: with a > in it", False, True, False, B, "note <lora: with a > in it"),
        ("pick <lora:style/*:0.5>", True, False, True, LoraTag("style/*", 0.5, 0.5), ""),
        ("off<lora:a:1>", False, False, False, A, ""),
        ("<lora:sdxl\\My Style:0.5:0.25>", True, False, False, LoraTag("sdxl\\My Style", 0.5, 0.25), ""),
        (r"<lora:a\>b // c:1> // d", True, False, False, LoraTag("a>b // c", 1, 1), "d"),
        ("<lora:a:1:lbw=TE:clip_l=0, default=1>", True, False, False, LoraTag("a", 1, 1, "TE:clip_l=0, default=1"), ""),
    ],
)
def test_a_line_for_a_lora(line, on, locked, pick, tag, note):
    found = row(line)
    assert (found.kind, found.on, found.locked, found.pick, found.tags, found.note) == (
        "lora",
        on,
        locked,
        pick,
        (tag,),
        note,
    )


@pytest.mark.parametrize(
    ("line", "kind", "on", "pick", "title", "note"),
    [
        ("# Style", "heading", True, False, "Style", ""),
        ("off # Style // x", "heading", False, False, "Style // x", ""),
        ("pick#", "heading", True, True, "", ""),
        ("// off <lora:a:1>", "note", True, False, "", "off <lora:a:1>"),
        ("", "blank", True, False, "", ""),
        (" \t\r", "blank", True, False, "", ""),
        ("strata rows 1", "version", True, False, "", ""),
    ],
)
def test_other_lines(line, kind, on, pick, title, note):
    found = row(line)
    assert (found.kind, found.on, found.pick, found.title, found.note) == (kind, on, pick, title, note)


@pytest.mark.parametrize(
    "line",
    [
        "a portrait",
        "off a portrait",
        "off",
        "off <lora:a:1> words",
        "<lora:a:x>",
        "<lora:a:1",
        "<lora::1>",
        "off // note",
        "off off <lora:a:1>",
        "strata rows 99",
        "<lora:a:1:new=3>",
        "offering <lora:a:1",
    ],
)
def test_what_is_not_understood_stays_and_says_why(line):
    found = row(line)
    assert found.kind == "unread"
    assert found.problem
    assert found.line == line


def test_the_version_stands_in_the_first_line_only():
    assert [found.kind for found in read_rows("strata rows 1\nstrata rows 1")] == ["version", "unread"]


def test_a_prompt_stands_for_its_tags():
    text = "a portrait, <lora:a:1>, soft light <lora:b:.5>\n<lora:c:0.5:0.25> and words"
    assert [found.kind for found in read_rows(text)] == ["prompt", "prompt"]
    assert [tag for step in acting(read_rows(text)) for tag in step.tags] == [A, B, C]


STACK = """strata rows 1
<lora:a:1>
# Style
off <lora:b:0.5> // was too much
<lora:c:0.5:0.25>
off # Faces
<lora:a:1>
<lora:broken
pick # Eyes
<lora:a:1>
off <lora:c:0.5:0.25>
pick <lora:eyes/*:0.5>
# Rest
lock <lora:b:0.5> // keep
what is this"""


def test_what_acts():
    rows = read_rows(STACK)
    assert acting(rows) == [
        Acting((A,), (False,)),
        Acting((C,), (False,)),
        Acting((A, LoraTag("eyes/*", 0.5, 0.5)), (False, True), "Eyes"),
        Acting((B,), (False,)),
    ]
    assert [number for number, _ in problems(rows)] == [15], "a line of a group that is off is nobody's trouble"


def test_the_prompt_gets_what_acts_and_what_is_wrong():
    assert reduced(read_rows(STACK)) == (
        "<lora:a:1>\n<lora:c:0.5:0.25>\npick #\n<lora:a:1>\npick <lora:eyes/*:0.5>\n#\n<lora:b:0.5>\nwhat is this"
    )


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name == name.strip() and name.strip("\\")
)
numbers = st.floats(-100, 100).map(lambda value: round(value, 3) + 0.0)
blocks = st.sampled_from([None, "OUT*=1,default=0", "1,0,0.5,R", "TE:clip_l=0, default=1"])
regions = st.builds(Region, st.integers(1, 1000), st.booleans(), st.booleans())
tags = st.builds(LoraTag, names, numbers, numbers, blocks, strength_low=st.none() | numbers, region=st.none() | regions)
notes = st.text(string.printable, max_size=20)
lora_rows = st.builds(lora_row, tags, st.booleans(), st.booleans(), st.booleans(), notes)
words = st.sampled_from(["off ", "lock ", "pick ", "#", "// ", "<lora:", "a", ":0.5", ">", "\\", " ", "\t", "\r", "\n"])
texts = st.text() | st.lists(words, max_size=30).map("".join)
lines = st.one_of(
    lora_rows.map(lambda found: found.line),
    texts.map(lambda text: text.replace("\n", " ")),
    st.sampled_from(["# x", "off # y", "pick # z", "off pick #", "", "// n", "a <lora:a:1>, <lora:b:2> c"]),
)
stacks = st.lists(lines, max_size=12).map("\n".join)


def text_of(rows):
    return "\n".join(row.line for row in rows)


@laws
@given(texts | stacks)
@example(STACK)
@example("\n\r\n")
def test_a_text_comes_back_as_it_was(text):
    assert text_of(read_rows(text)) == text


@laws
@given(lora_rows)
def test_a_row_that_is_written_is_read_as_the_same(made):
    assert read_rows(made.line) == [made]


@laws
@given(stacks)
def test_the_reduced_text_does_the_same(text):
    rows = read_rows(text)
    short = read_rows(reduced(rows))
    strip = [(step.tags, step.from_folder) for step in acting(rows)]
    assert [(step.tags, step.from_folder) for step in acting(short)] == strip
    assert [why for _, why in problems(short)] == [why for _, why in problems(rows)]
    assert reduced(short) == reduced(rows)


@laws
@given(stacks, stacks.filter(lambda text: all(row.kind != "heading" for row in read_rows(text))), st.data())
def test_editing_what_is_off_leaves_the_reduced_text(text, more, data):
    """A row that is off, a note and an empty line may come and go anywhere; so may a group that is off, at the end."""
    rows = read_rows(text)
    at = data.draw(st.integers(min(1, len(rows)), len(rows)))  # the first line may be the version
    tag = data.draw(tags)
    idle = [lora_row(tag, on=False).line, f"// {data.draw(st.text(string.ascii_letters))}", ""]
    grown = [*(row.line for row in rows[:at]), *idle, *(row.line for row in rows[at:])]
    assert reduced(read_rows("\n".join(grown))) == reduced(rows)
    assert reduced(read_rows(f"{text}\noff # gone\n{more}")) == reduced(rows)


def test_plain_tags_are_a_stack_already():
    """What loras_text writes and what other programs paste is read as it is read in a prompt."""
    text = "<lora:a:1> <lora:b:0.5>\n<lora:c:0.5:0.25>"
    assert [tag for step in acting(read_rows(text)) for tag in step.tags] == read_tags(text)[1]


def test_too_many_lines_are_kept_and_said():
    text = "\n".join(["<lora:a:1>"] * 2500)
    rows = read_rows(text)
    assert text_of(rows) == text
    assert [number for number, _ in problems(rows)] == [2001]


@pytest.mark.parametrize(
    ("name", "pattern", "inside"),
    [
        ("style/ink.safetensors", "style/*", True),
        ("style\\ink.safetensors", "Style/*", True),
        ("style/old/ink.safetensors", "style/*", False),
        ("style/old/ink.safetensors", "style\\**", True),
        ("styles/ink.safetensors", "style/**", False),
        ("ink.safetensors", "*", True),
        ("style/ink.safetensors", "*", False),
        ("style/ink.safetensors", "**", True),
        ("style/ink-2.safetensors", "style/ink*", True),
    ],
)
def test_folders(name, pattern, inside):
    assert is_in_folder(name, pattern) is inside


@pytest.mark.parametrize(
    "before", ["off: ", "off, ", "lock;", "Pick - ", "-", "- ", "!", "off.lock: ", "text // ", "/* "]
)
def test_what_looks_like_a_switch_and_is_none_applies_nothing(before):
    (row,) = read_rows(f"{before}<lora:a:1>")
    assert row.kind == "unread" and row.problem
    assert acting([row]) == []


@pytest.mark.parametrize(
    "line", ["{<lora:a:1>|<lora:b:1>}", "x [<lora:a:1>:<lora:b:1>:50%]", "\uff3b<lora:a:1>|x\uff3d"]
)
def test_a_row_refuses_what_a_prompt_does(line):
    (row,) = read_rows(line)
    assert row.kind == "unread" and "<lora:a:1>" in row.problem


@pytest.mark.parametrize("before", [", ", "offset, ", "off-shoulder dress, ", "picked: ", "(", "a // b", "4. "])
def test_words_and_signs_of_a_prompt_are_none(before):
    line = f"{before}<lora:a:1>" if before != "a // b" else "<lora:a:1> <lora:b:1> // b"
    (row,) = read_rows(line)
    assert row.kind == "prompt" and row.tags[0].name == "a"


NAMES = st.text("aB/\\\\*\u0130", max_size=6)


@given(st.lists(NAMES, max_size=12), st.lists(NAMES.map("{}*".format) | NAMES, max_size=6))
def test_many_patterns_find_what_each_finds_alone(names, patterns):
    files = FolderFiles(lambda: names)
    for pattern in patterns:
        alone = sorted(name for name in names if is_in_folder(name, pattern))
        assert files.of(pattern) == alone
        assert files.count(pattern) == len(alone)


def test_picks_are_even_and_stay():
    counted = Counter(picked(seed, "x", 1, 5) for seed in range(5000))
    assert sorted(counted) == [0, 1, 2, 3, 4]
    assert all(850 < count < 1150 for count in counted.values())  # 1000 each; four sigma are 113
    assert [picked(seed, "x", 1, 5) for seed in range(4)] == [picked(seed, "x", 1, 5) for seed in range(4)]
    assert any(picked(seed, "x", 1, 5) != picked(seed, "x", 2, 5) for seed in range(20))


def test_rows_survive_a_workflow_file():
    """JSON, as workflows are stored, and Windows line ends."""
    assert text_of(read_rows(json.loads(json.dumps(STACK)))) == STACK
    windows = STACK.replace("\n", "\r\n")
    assert acting(read_rows(windows)) == acting(read_rows(STACK))
    assert reduced(read_rows(windows)) == reduced(read_rows(STACK))
