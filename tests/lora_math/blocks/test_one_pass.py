"""Weights texts of any shape are read, or refused, in one pass over them: by one family, and by all of them in turn."""

import pytest
from deadline import deadline

from strata.lora_math.blocks import FAMILIES, BlockTextError, builtin_layout, parse
from strata.lora_math.blocks.grammar import MAX_LENGTH
from strata.lora_math.blocks.selector import fits_pattern

SPACED = r"""  = , 1, 1 1. IN4=0, ( { even( IN{ IN{1, R, X, A, a; a;A=1; : a: lbw= <lora: w=a: % %in1=1, {"a":1, [ OTHER:a* *a*a=1, IN4.attn
 .attn .1 - 1- %- 0%-1% 1% TE: 1e .. 0.. invert( seed(1, seed( (("""
PIECES = [*SPACED.split(), " ", " =", "IN4=0 ", "\t", "\n", "A ", "9 "]
TEXTS = {piece: (piece * MAX_LENGTH)[: MAX_LENGTH - 1] for piece in PIECES}
TEXTS |= {
    "many blocks": ",".join(f"IN{n}=0" for n in range(999)),
    "many ranges": ",".join(f"D{n % 19}-S{n % 38}.attn=0.{n}" for n in range(999)),
    "many parts": ",".join(f"TE:clip_l.{n}=0" for n in range(999)),
    "many patterns": ",".join(f"OTHER:a{n}*b*c=0" for n in range(999)),
    "stars": "OTHER:" + "a*" * 9000 + "b=0",
    "many spans": "IN{" + ",".join(map(str, range(3900))) + "}=0",
    "a dictionary": "{" + ",".join(f'"double_blocks.{n}.": 1' for n in range(700)) + "}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=[repr(name) for name in TEXTS])
def test_no_text_takes_long(text):
    assert len(text) < MAX_LENGTH
    with deadline():
        for family in FAMILIES:
            layout = builtin_layout(family)
            try:
                weights = parse(text, layout).resolve(layout)
            except BlockTextError as problem:
                assert len(str(problem)) <= 2000
                continue
            for key in (
                "diffusion_model.double_blocks.7.img_attn.qkv.weight",
                "diffusion_model.aaaa.weight",
                "clip_l.x.weight",
            ):
                weights.weight(key)


def test_more_rules_than_any_model_has_places_are_refused():
    with pytest.raises(BlockTextError, match="more than 1000 rules"):
        parse("IN4=0 " * 1001, builtin_layout("SDXL"))


@pytest.mark.parametrize(
    ("word", "pattern", "fits"),
    [
        ("img_in", "img_in", True),
        ("img_in", "*", True),
        ("img_in", "*_in", True),
        ("img_in", "img*", True),
        ("img_in", "i*g*n", True),
        ("img_in", "img_in*", True),
        ("img_in", "img", False),
        ("img_in", "in*", False),
        ("img_in", "img*img_in", False),
        ("aba", "ab*ba", False),
        ("abba", "ab*ba", True),
        ("abcabc", "*bc*bc", True),
        ("abc", "*bc*bc", False),
        ("", "*", True),
        ("", "", True),
    ],
)
def test_patterns_of_first_words(word, pattern, fits):
    assert fits_pattern(word, pattern) is fits
