"""Vectors of other programs against tables made by hand: entry -> weight names, index by index.

Each entry gets a number of its own (entry n is n / 100), so a shift by one cannot hide.
"""

import random

import pytest

from strata.lora_math.blocks import BlockTextError, builtin_layout, parse

SD, SD2, SDXL, REFINER, FLUX, CHROMA, WAN, Z_IMAGE = (
    builtin_layout(f) for f in ("SD1.5", "SD2", "SDXL", "SDXL refiner", "FLUX.1", "Chroma", "Wan", "Z-Image")
)


PATHS = {
    "IN": "input_blocks",
    "OUT": "output_blocks",
    "M": "middle_block",
    "D": "double_blocks",
    "S": "single_blocks",
    "B": "blocks",
    "L": "layers",
}


def vector(length):
    return ",".join(str(entry / 100) for entry in range(1, length + 1))


def key(name):
    """A weight of a block: IN04 -> input_blocks.4, M1 -> the middle's second part."""
    for letters, path in PATHS.items():
        if name.startswith(letters) and name[len(letters) :].isdigit():
            return f"diffusion_model.{path}.{int(name[len(letters) :])}.x.weight"
    return {
        "TE": "clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.weight",
        "T5": "t5xxl.transformer.encoder.block.3.layer.0.SelfAttention.q.weight",
        "TIME": "diffusion_model.time_embed.0.weight",
        "IMG_IN": "diffusion_model.img_in.weight",
        "TIME_IN": "diffusion_model.time_in.in_layer.weight",
        "FINAL": "diffusion_model.final_layer.linear.weight",
        "HEAD": "diffusion_model.head.head.weight",
        "REFINER": "diffusion_model.noise_refiner.0.attention.qkv.weight",
        "GUIDANCE": "diffusion_model.distilled_guidance_layer.layers.0.in_layer.weight",
    }[name]


def ids(letters, *numbers):
    return [f"{letters}{number}" for number in numbers]


D, S = ids("D", *range(19)), ids("S", *range(38))
# (layout, names in order of the entries, what no entry lists -> its weight)
TABLES = {
    "sd-webui 17": (
        SD,
        [
            "TE",
            "IN1",
            "IN2",
            "IN4",
            "IN5",
            "IN7",
            "IN8",
            "M0",
            "OUT3",
            "OUT4",
            "OUT5",
            "OUT6",
            "OUT7",
            "OUT8",
            "OUT9",
            "OUT10",
            "OUT11",
        ],
        {
            **dict.fromkeys(["IN0", "IN3", "IN6", "IN9", "IN10", "IN11", "OUT0", "OUT1", "OUT2"], 0),
            "M1": 0.08,
            "M2": 0.08,
            "TIME": 1,
        },
    ),
    "sd-webui 26": (
        SD,
        ["TE", *ids("IN", *range(12)), "M0", *ids("OUT", *range(12))],
        {"M1": 0.14, "M2": 0.14, "TIME": 1},
    ),
    "Inspire 27": (
        SD,
        ["TE", *ids("IN", *range(1, 12)), "M0", "M1", "M2", *ids("OUT", *range(12))],
        {"IN0": 0, "TIME": 0.01},
    ),
    "kohya 25": (
        SD,
        [*ids("IN", *range(12)), "M0", *ids("OUT", *range(12))],
        {"M1": 0.13, "TE": 1, "TIME": 1},
    ),
    "sd-webui 12": (
        SDXL,
        ["TE", "IN4", "IN5", "IN7", "IN8", "M0", "OUT0", "OUT1", "OUT2", "OUT3", "OUT4", "OUT5"],
        {
            **dict.fromkeys(["IN0", "IN1", "IN2", "IN3", "IN6", "OUT6", "OUT7", "OUT8"], 0),
            "M1": 0.06,
            "TIME": 1,
        },
    ),
    "sd-webui 20": (
        SDXL,
        ["TE", *ids("IN", *range(9)), "M0", *ids("OUT", *range(9))],
        {"M1": 0.11, "M2": 0.11, "TIME": 1},
    ),
    "Inspire 21": (
        SDXL,
        ["TE", *ids("IN", *range(1, 9)), "M0", "M1", "M2", *ids("OUT", *range(9))],
        {"IN0": 0, "TIME": 0.01},
    ),
    "plain 19 of SDXL": (SDXL, [*ids("IN", *range(9)), "M0", *ids("OUT", *range(9))], {"TE": 1, "TIME": 1}),
    "refiner 26": (REFINER, ["TE", *ids("IN", *range(12)), "M0", *ids("OUT", *range(12))], {"TIME": 1}),
    "FLUX 19": (FLUX, D, {**dict.fromkeys(S, 0), "TE": 1, "T5": 1, "FINAL": 1}),
    "FLUX 20": (FLUX, ["TE", *D], {**dict.fromkeys(S, 0), "T5": 0.01, "FINAL": 0.01}),
    "FLUX 57": (FLUX, [*D, *S], {"TE": 1, "T5": 1, "FINAL": 1}),
    "FLUX 58": (FLUX, ["TE", *D, *S], {"T5": 0.01, "FINAL": 0.01, "IMG_IN": 0.01}),
    "FLUX 59": (FLUX, ["TE", *D, *S, "FINAL"], {"T5": 0.01, "IMG_IN": 0.59}),
    "FLUX 61": (FLUX, ["TE", "T5", "IMG_IN", *D, *S, "FINAL"], {"TIME_IN": 0.03}),
    "Chroma 58": (CHROMA, ["T5", *D, *S], {"FINAL": 0.01, "GUIDANCE": 0.01}),
    "Wan 40": (WAN, ids("B", *range(40)), {"HEAD": 1}),
    "Wan 41": (WAN, ["TE", *ids("B", *range(40))], {"HEAD": 1}),
    "Wan 42": (WAN, ["TE", *ids("B", *range(40)), "HEAD"], {}),
    "Z-Image 30": (Z_IMAGE, ids("L", *range(30)), {"TE": 1, "REFINER": 1}),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_entry_reaches_its_block(name):
    layout, names, rest = TABLES[name]
    weights = parse(vector(len(names)), layout).resolve(layout)
    expected = {entry: (at + 1) / 100 for at, entry in enumerate(names)} | rest
    assert {entry: weights.weight(key(entry)) for entry in expected} == expected


@pytest.mark.parametrize("length", [12, 17, 20, 21, 26, 27])
@pytest.mark.parametrize("layout", [SD, SD2, SDXL, REFINER, FLUX, WAN, Z_IMAGE], ids=lambda layout: layout.family)
def test_a_vector_is_only_for_the_family_it_fits(layout, length):
    fits = {
        "SD1.5": {17, 26, 27},
        "SD2": {17, 26, 27},
        "SDXL": {12, 20, 21},
        "SDXL refiner": {26, 27},
        "FLUX.1": {20},
    }
    if length in fits.get(layout.family, set()):
        assert f"Read as {length} entries for {layout.family}" in parse(vector(length), layout).notes[0]
    else:
        with pytest.raises(BlockTextError, match=f"This vector has {length} entries, but {layout.family} takes "):
            parse(vector(length), layout)


def test_the_message_names_both_lengths_and_shows_a_form_that_works():
    with pytest.raises(BlockTextError) as error:
        parse(vector(17), SDXL)
    message = str(error.value)
    assert "17 entries, but SDXL takes 12 (LoRA)" in message and "17 entries are a vector for SD1.5" in message
    shown = message.split("The form of 12 is ")[1].split(" for ")[0]
    assert parse(shown, SDXL).resolve(SDXL).weight(key("IN4")) == 1


def test_what_twenty_means_is_the_models_matter_and_noted():
    assert parse(vector(20), SDXL).notes[0].startswith("Read as 20 entries for SDXL (LyCORIS of sd-webui): BASE, IN0")
    notes = parse(vector(20), FLUX).notes
    assert notes[0].startswith("Read as 20 entries for FLUX.1 (double blocks of Inspire): BASE, D0")
    assert notes[1] == "Not in this form, so 0: S*."


def test_the_text_states_every_block():
    text = str(parse(vector(12), SDXL))
    assert text == (
        "TE=0.01, OTHER=1, IN0-3=0, IN4=0.02, IN5=0.03, IN6=0, IN7=0.04, IN8=0.05, M*=0.06, "
        "OUT0=0.07, OUT1=0.08, OUT2=0.09, OUT3=0.1, OUT4=0.11, OUT5=0.12, OUT6-8=0, default=1"
    )
    assert str(parse(",".join("1" * 26), SD)) == "TE=1, OTHER=1, IN*=1, M*=1, OUT*=1, default=1"


def test_random_entries_of_sd_webui():
    text = "1," + ",".join(["R", "U"] * 8)
    values = parse(text, SD, seed=7)
    dice = random.Random(7)
    expected = [round(dice.uniform(0, 1), 3), round(dice.uniform(-0.5, 1.5), 3)]
    weights = values.resolve(SD)
    assert [weights.weight(key("IN1")), weights.weight(key("IN2"))] == expected
    assert parse(text, SD, seed=7) == values != parse(text, SD, seed=8)
    assert "Random entries as in sd-webui: R is 0..1, U is -0.5..1.5." in values.notes
    state = random.getstate()
    parse(text, SD, seed=9)
    assert random.getstate() == state


@pytest.mark.parametrize("text", ["1," * 11 + "1,1,1,1,A,R", "SD-X:" + "1," * 16 + "R", "1," * 26 + "R"])
def test_random_entries_of_inspire(text):
    """Its placeholders A and B, its preset names, its lengths."""
    last = parse(text, SD, seed=3).resolve(SD).weight(key("OUT11"))
    assert last == round(random.Random(3).uniform(0, 3), 2)


def test_placeholders():
    text = "1,A,a,B,b,X,X+0.5,X - 1,1,1,1,1"
    weights = parse(text, SDXL, placeholders={"A": 3, "B": 0.5, "X": 0.25}).resolve(SDXL)
    names = ["IN4", "IN5", "IN7", "IN8", "M0", "OUT0", "OUT1"]
    assert [weights.weight(key(name)) for name in names] == [3, 1.5, 0.5, 0.25, 0.25, 0.75, -0.75]
    assert parse("1,A,a,B,b,1,1,1,1,1,1,1", SDXL).resolve(SDXL).weight(key("IN4")) == 4  # Inspire's own
    with pytest.raises(BlockTextError, match="needs a value for X"):
        parse(text, SDXL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,0,foo", "'foo' is neither a number"),
        ("1,0,", "empty entry"),
        ("1,,0", "empty entry"),
        ("1,0.5 0 1,0", "several numbers for one block"),
        ("1,nan,0", "'nan' is neither"),
        ("1,inf,0", "'inf' is neither"),
        ("1,1e999" + ",1" * 10, "inf is not a weight"),
    ],
)
def test_broken_vectors(text, words):
    with pytest.raises(BlockTextError, match=words):
        parse(text, SDXL)


def test_base_and_sixty_blocks_are_no_vector_of_flux():
    """61 entries are FLUX.1's too; in a model of 60 blocks they are BASE and its blocks."""
    weights = parse(",".join(["0.5", *["1"] * 59, "0"]), builtin_layout("Qwen-Image")).resolve(
        builtin_layout("Qwen-Image")
    )
    found = [weights.weight(f"diffusion_model.transformer_blocks.{n}.attn.to_q.weight") for n in range(60)]
    assert found == [1.0] * 59 + [0.0]
    with pytest.raises(BlockTextError, match="61 entries"):
        parse(",".join(["1"] * 61), WAN)
