"""The other texts that people bring: prompts, Inspire's % specs, KJNodes' dictionaries."""

import json

import pytest

from strata.lora_math.blocks import BlockTextError, builtin_layout, parse

SD, SDXL, FLUX, WAN = (builtin_layout(f) for f in ("SD1.5", "SDXL", "FLUX.1", "Wan"))
PRESETS = {"MIDD": "IN{5,7,8}=1, M=1, OUT3-6=1, TE=1, default=0", "MY PRESET": "IN*=0"}


@pytest.mark.parametrize(
    "text",
    [
        "MIDD",
        "midd",
        " MIDD ",
        "lbw=MIDD",
        ":lbw=MIDD",
        "w=MIDD",
        "<lora:flower:1:lbw=MIDD>",
        "<lora:flower:0.5:0.7:lbw=MIDD>",
        "<lyco:flower:lbw=MIDD>",
        "<lora:flower:lbw=MIDD;>",
    ],
)
def test_names(text):
    weights = parse(text, SD, presets=PRESETS)
    assert weights == parse(PRESETS["MIDD"], SD)
    assert "Preset MIDD." in weights.notes


def test_vectors_in_tags():
    vector = "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0"
    assert parse(f"<lora:flower:1:lbw={vector}>", SD) == parse(vector, SD) == parse(f"MIDD:{vector}", SD)
    tagged = parse("lbw=1,X,X-0.5,1,1,1,1,1,1,1,1,1:x=0.75", SDXL)
    assert str(tagged) == str(parse("1,0.75,0.25,1,1,1,1,1,1,1,1,1", SDXL))


def test_impacts_settings_behind_semicolons():
    numbers = parse("0.5,0.2,0.25,1,1,1,1,1,1,1,1,1", SDXL)
    for text in ("A,B,a,1,1,1,1,1,1,1,1,1;A=0.5;B=0.2;", "SD-X:A,B,a,1,1,1,1,1,1,1,1,1; b = 0.2 ;a=0.5"):
        assert parse(text, SDXL) == parse(f"lbw={text}", SDXL) == numbers
    assert parse("MIDD;", SD, presets=PRESETS) == parse("MIDD", SD, presets=PRESETS)
    assert str(parse("B=0.5;default=0;", WAN)) == str(parse("B=0.5, default=0", WAN)), "rules may have semicolons"
    with pytest.raises(BlockTextError, match="'C=1' behind 'MIDD' is not read"):
        parse("MIDD;C=1", SD, presets=PRESETS)


@pytest.mark.parametrize("text", ["1." + ",1" * 11, "IN4=1.", "IN*=1...5", "IN*=1.." + "2."])
def test_a_point_behind_a_number_is_fine_everywhere(text):
    spelled = {"IN4=1.": "IN4=1", "IN*=1...5": "IN*=1..0.5", "IN*=1..2.": "IN*=1..2"}
    assert parse(text, SDXL) == parse(spelled.get(text, "1" + ",1" * 11), SDXL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lbw=NOPE", "'NOPE' is no preset of SD1.5"),
        ("lbw=", "has no lbw="),
        ("lbw=lbw=MIDD", "has no lbw="),
        ("<lora:flower:1>", "has no lbw="),
        ("<lora:flower:1:lbw=MIDD", "not closed"),
        ("<lora:flower:1:lbw=MIDD:start=x>", "'x' is no step"),
        ("lbw=MIDD:lbwe=ATTNDEEPON", "'lbwe=ATTNDEEPON'"),
        ("MID", "Did you mean MIDD?"),
    ],
)
def test_names_that_are_not_read(text, words):
    with pytest.raises(BlockTextError) as error:
        parse(text, SD, presets=PRESETS)
    assert words in str(error.value)


# Places of a standard LoRA. SD1.5: in1..6 = IN01,02,04,05,07,08, out1 = OUT03. SDXL: in1..4 = IN04,05,07,08.
SPECS = [
    (SD, "%default=0,in1=1,in3=0.5", "TE=0, OTHER=0, IN1=1, IN4=0.5, default=0"),
    (SD, "%out1-2=0.5", "TE=1, OTHER=1, OUT{3,4}=0.5, default=1"),
    (SD, "% in=0, mid=0.3, base=0.5", "TE=0.5, OTHER=0.5, IN*=0, M*=0.3, default=1"),
    (SDXL, "%default=0,in1-2=1,out6=1", "TE=0, OTHER=0, IN{4,5}=1, OUT5=1, default=0"),
    (
        FLUX,
        "%default=0,double1=1,double19=.5,single1-2=-1",
        "TE=0, OTHER=0, D0=1, D18=0.5, S{0,1}=-1, default=0",
    ),
]


@pytest.mark.parametrize(("layout", "text", "expected"), SPECS)
def test_percent_specs(layout, text, expected):
    assert str(parse(text, layout)) == expected


@pytest.mark.parametrize(
    "text", ["%", "%in7=1", "%in0=1", "%in1=A", "%foo=1", "%in2-1=1", "%base1=1", "%in1=1,", "%double1=1"]
)
def test_percent_specs_that_inspire_would_ignore(text):
    with pytest.raises(BlockTextError):
        parse(text, SD)


def test_percent_specs_are_not_for_wan():
    with pytest.raises(BlockTextError, match="Wan has no in blocks"):
        parse("%in1=1", WAN)


def test_dictionaries():
    text = json.dumps({"double_blocks.3.": 0.5, "single_blocks.20.": 0, "final_layer.": 0.25, "single_blocks.99.": 1})
    weights = parse(text, FLUX)
    assert str(weights) == "TE=1, OTHER=1, D3=0.5, S20=0, OTHER:final_layer=0.25, default=1"
    assert "'single_blocks.99.': FLUX.1 has no such block." in weights.notes
    assert str(parse('{"blocks.7.": 0, "diffusion_model.blocks.8": 2}', WAN)) == "TE=1, OTHER=1, B7=0, B8=2, default=1"
    assert str(parse('{"middle_block.1": 0, "input_blocks.4.": 1}', SDXL)) == "TE=1, OTHER=1, M0.1=0, IN4=1, default=1"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{",
        '{"double_blocks.3.": "x"}',
        '{"double_blocks.3.": true}',
        '{"double_blocks.3.": NaN}',
        '{"foo": 1}',
        '{"double_blocks.3.": 1e999}',
        '{"D": 1}',
        '{"double_blocks.3.": [1]}',
    ],
)
def test_broken_dictionaries(text):
    with pytest.raises(BlockTextError):
        parse(text, FLUX)


def test_a_text_may_say_its_own_seed_and_inversion():
    numbers = "1,R,U,0.5,1,1,1,1,1,1,1,1"
    assert parse(f"seed(7, {numbers})", SDXL, seed=3) == parse(numbers, SDXL, seed=7)
    assert parse(f"invert({numbers})", SDXL, seed=7) == parse(numbers, SDXL, seed=7).invert()
    both = parse(f"invert(seed(7, {numbers}))", SDXL)
    assert both == parse(f"lbw=INVERT (seed (7,{numbers}))", SDXL) == parse(numbers, SDXL, seed=7).invert()
    assert parse("invert(IN4=0.25, default=1)", SDXL) == parse("IN4=0.25, default=1", SDXL).invert()
    assert parse("invert(MIDD)", SD, presets=PRESETS) == parse("MIDD", SD, presets=PRESETS).invert()
    assert parse("invert(invert(IN4=0.25))", SDXL) == parse("IN4=0.25", SDXL)


@pytest.mark.parametrize(
    "text", ["invert(IN4=0", "seed(1,R)", "seed(x, IN4=0)", "seed(IN4=0)", "invert(" * 5 + "IN4=0" + ")" * 5]
)
def test_wrappers_that_are_not_read(text):
    with pytest.raises(BlockTextError):
        parse(text, SDXL)
