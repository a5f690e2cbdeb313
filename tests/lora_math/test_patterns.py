r"""Expressions out of files: as Python's engine reads them where they are read at all, and in one pass over any name."""

import re

import pytest
from deadline import deadline
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.lora_math.reading.patterns import Patterns, UnreadPattern
from strata.lora_math.reading.peft_config import Rules

NAMES = [
    "to_q",
    "a.to_q",
    "ato_q",
    "blocks.1.to_q",
    "blocks.11.to_k",
    "x.mid.to_v",
    "mid.to_v",
    "a.b",
    "aXb",
    "",
    ".",
    "a\nb",
]


def peft(text, name):
    """PEFT's own way (``peft/utils/other.py``, ``get_pattern_key``)."""
    return re.match(rf"(.*\.)?({text})$", name) is not None


@pytest.mark.parametrize(
    "text",
    [
        "to_q",
        "blocks.1.to_q",
        r".*\.mid\..*",
        r"blocks\.\d+\.(to_q|to_k)",
        "(?:to_q|to_k)",
        "to_(q|k|v)?",
        "a.b",
        r"a\.b",
        "[a-c]x?.[^0-9]",
        r"\w+",
        "^to_q",
        "to_q$",
        "^mid.*$",
        "a{2}",
        "blocks.[0-9]{1,2}.to_k",
        "a{0,}to_q",
        "x.+?to_v",
        "a{b}",
        "to_q|to_v",
        "",
        "((a|b)|(t|u)o_q)",
        "[]x]",
        r"[\]\d]+",
    ],
)
def test_an_expression_fits_what_it_fits_in_peft(text):
    patterns = Patterns([text])
    for name in (*NAMES, "aa", "b.aa", "a{b}", "x]", "]", "1", "btx.z"):
        if "\n" not in name:  # no module's name has one, and Python's . and $ treat it apart
            assert (patterns.first(name) == 0) == peft(text, name), name


atoms = st.sampled_from(["a", "b", ".", r"\.", r"\d", "[ab]", "[^a]", "_", "1"])
signs = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{1,}", "*?"])
pieces = st.builds(str.__add__, atoms, signs)
sequences = st.lists(pieces, max_size=4).map("".join)
groups = st.lists(sequences, min_size=1, max_size=3).map(lambda found: f"({'|'.join(found)})")
expressions = st.lists(pieces | groups, max_size=4).map("".join)


@given(st.lists(expressions, max_size=3), st.text("ab._1", max_size=10))
@settings(max_examples=500)
def test_any_expression_that_is_read_means_what_it_means_to_python(texts, name):
    try:
        found = Patterns(texts).first(name)
        whole = Patterns(texts, whole=True).first(name)
    except UnreadPattern:
        return
    assert found == next((at for at, text in enumerate(texts) if peft(text, name)), None)
    assert whole == next((at for at, text in enumerate(texts) if re.fullmatch(text, name)), None)


@given(st.text(st.sampled_from("()[]{}|\\^$.*+?-,ab1: \ud800") | st.characters(), max_size=30), st.text(max_size=10))
def test_any_text_is_read_or_refused(text, name):
    try:
        Patterns([text]).first(name)
    except UnreadPattern as problem:
        assert len(str(problem)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "(a|b)*",
        "(a+)+b",
        "(",
        ")",
        "a)",
        "[",
        "[z-a]",
        "*a",
        "a**",
        "(?=a)",
        "(?P<n>a)",
        r"\1",
        r"\bfoo",
        "a{9}",
        "^a|b",
        "a$b",
        "\\",
        "x" * 1001,
        "(" * 250 + ")" * 250,
        "(a|b)" * 7,
    ],
)
def test_what_is_not_read_is_refused_with_the_expression(text):
    with pytest.raises(UnreadPattern, match="its expression"):
        Patterns([text])


def test_the_first_that_fits_wins():
    assert Patterns(["to_k", "blocks.1.to_q", "to_q", ".*"]).first("x.blocks.1.to_q") == 1
    assert Patterns(["to_k", ".*", "to_q"]).first("to_q") == 1


@pytest.mark.parametrize("count", [28, 32, 200])
def test_alternatives_of_alternatives_are_no_way_to_stop_a_server(count):
    """The file of 800 bytes that took a backtracking engine 90 seconds, and longer ones."""
    config = {"lora_alpha": 4, "alpha_pattern": {"(a|aa)" * count: 2}}
    with deadline():
        rules = Rules.from_adapter_config(config)
        with pytest.raises(UnreadPattern, match=r"alpha_pattern is not understood: its expression '\(a\|aa\)"):
            rules.for_module("a" * (3 * count // 2) + "b")


@pytest.mark.parametrize(
    "texts",
    [
        [f"blocks.{n}.attn.to_q" for n in range(1000)],
        [f"blocks.{n}.*to_q" for n in range(1000)],
        [f".*{n}.*" for n in range(1000)],
        [".*a" * 300],
        ["[ab]*" * 150],
        ["a?" * 500],
        [f"{'.' * n}{'.*' * 100}{n}" for n in range(300)],
        [f"[a{chr(0x4E00 + n)}]" for n in range(20000)],
    ],
    ids=range(8),
)
def test_a_thousand_expressions_on_two_thousand_modules_are_quick(texts):
    with deadline():
        try:
            patterns = Patterns(texts)
            for n in range(2000):
                patterns.first(f"transformer.double_blocks.{n}.img_attn.{'a' * 60}.to_q")
        except UnreadPattern:
            pass


def test_expressions_as_trainers_write_them_are_within_the_bounds():
    names = [f"transformer.double_blocks.{n}.img_attn.{layer}" for n in range(1000) for layer in ("to_q", "to_k")]
    patterns = Patterns(names)
    assert [patterns.first(name) for name in names] == list(range(2000))
    patterns = Patterns([rf"double_blocks.{n}\..*to_(q|k)" for n in range(1000)])
    assert [patterns.first(name) for name in names] == [n // 2 for n in range(2000)]
