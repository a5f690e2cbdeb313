"""What the page is told of rows and of a prompt's tags: joined, they are the text again, and its own writing agrees with the server's."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.devtools.server import ROOT
from strata.lora_math.errors import StrataError
from strata.lora_math.tags import LoraTag, format_tag
from strata.nodes.comfy.lora_names import NameIndex
from strata.nodes.rows import words

NAMES = ["a.safetensors", "style/b.safetensors"]


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    monkeypatch.setattr(words, "lora_names", lambda: NAMES)


def joined(answer):
    lines = [tag["line"] for tag in answer["tags"]] + [""]
    return "".join(piece + line for piece, line in zip(answer["pieces"], lines, strict=True))


PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "<lora:a:0.5>",
            "<lora:b:1:0.2:lbw=IN*=0>",
            "<lora:a:1:2:3>",
            "<lyco:none>",
            "<lora:a",
            "<lora:\\<lora:",
            "< lora:",
            "\uff1clora:a",
            "{x|",
            "}",
            "\U0001f600",
            "<",
        ]
    ),
)


@given(st.lists(PIECES, max_size=8).map("".join), st.booleans())
def test_pieces_and_tags_are_the_text(text, clip_first):
    assert joined(words.described_prompt(text, clip_first)) == text


def test_a_tag_is_written_anew_from_its_parts():
    for clip_first in (False, True):
        (tag,) = words.described_prompt("<lora:style/b:0.5:0.2:lbw=IN*=0>", clip_first)["tags"]
        numbers = (tag["clip"], tag["model"]) if clip_first else (tag["model"], tag["clip"])
        assert f"{tag['head']}:{numbers[0]:g}:{numbers[1]:g}{tag['tail']}>" == tag["line"]


def test_one_that_is_not_understood_leaves_the_others():
    answer = words.described_prompt("<lora:a:x> <lora:b:1>", False)
    assert [tag["kind"] for tag in answer["tags"]] == ["unread", "lora"]
    assert "'x' is not a number" in answer["tags"][0]["problem"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a <lora:b:1>, <lora:str", ["<lora:b:1>", "<lora:str"]),
        ("<lora:st , a cat\n<lora:b:1>", ["<lora:st", "<lora:b:1>"]),
        ("<lora:st<lora:b:1> x", ["<lora:st", "<lora:b:1>"]),
        ("< lora:a:1> and <lora:b:1>", ["< lora:a:1>", "<lora:b:1>"]),
    ],
)
def test_one_that_is_still_typed_leaves_the_others(text, lines):
    answer = words.described_prompt(text, False)
    assert [tag["line"] for tag in answer["tags"]] == lines
    (wrong,) = (tag for tag in answer["tags"] if tag["kind"] == "unread")
    assert "is not closed" in wrong["problem"] or "is nearly a tag" in wrong["problem"]
    assert joined(answer) == text


@pytest.mark.parametrize("row", ["pick <lora:style/{}*:1>", "<lora:none{}:1>"])
def test_a_long_list_is_looked_through_a_bounded_number_of_times(monkeypatch, row):
    """However many rows ask: by how often one of its names is handled."""
    looks = []

    class Listed(str):
        def lower(self):
            looks.append(self)
            return str.lower(self)

        replace = lambda self, *pair: Listed(str.replace(self, *pair))  # noqa: E731

    monkeypatch.setattr(words, "lora_names", lambda: [Listed(f"style/{n}.safetensors") for n in range(30)])
    monkeypatch.setattr(words, "index_of", NameIndex)
    monkeypatch.setattr(NameIndex, "_near", lambda self, wanted: looks.append(wanted) or [])
    counted = []
    for rows in (50, 1000):
        looks.clear()
        found = words.described("\n".join(row.format(n) for n in range(rows)))["rows"]
        assert len(found) == rows and ("near" in found[0]) == (not found[0]["pick"])
        counted.append(len(looks))
    assert counted[0] == counted[1] > 0


def test_how_many_a_row_picks_from():
    rows = "pick <lora:style/*:1>\npick <lora:**:1>\npick <lora:none/*:1>"
    assert [row["count"] for row in words.described(rows)["rows"]] == [1, 2, 0]


def test_too_many_tags_are_said():
    with pytest.raises(StrataError, match="2001 tags"):
        words.described_prompt("<lora:a:1>" * 2001, False)


def plain_weights():
    """The texts that the page puts into a tag as they are (web/stack/text.js)."""
    source = (ROOT / "web" / "stack" / "text.js").read_text(encoding="utf-8")
    pattern = re.search(r"isPlainWeights = \(text\) => /(.*)/\.test", source)[1]
    return re.compile(pattern.strip("^$"), re.ASCII)


@given(st.from_regex(plain_weights(), fullmatch=True).map(str.strip).filter(bool))
def test_weights_that_the_page_writes_itself_need_no_escapes(text):
    assert format_tag(LoraTag("x", 1.0, 1.0, text)) == f"<lora:x:1:lbw={text}>"


def test_what_a_desk_writes_is_of_that_kind():
    kinds = plain_weights()
    assert kinds.fullmatch("IN4-8=0.5, OUT*=-1.25, M0=2, TE:clip_l=0.4, TE:t5xxl=0, OTHER=1, default=0")
    for escaped in ("a:b", "TE:clip=1", "x>y", "a\\b", "a\nb", "{a}", "preset/one"):
        assert not kinds.fullmatch(escaped)
