"""Presets: the pack's against the published vectors, and the users' files, whole and broken."""

import json
import os
import threading

import hypothesis.strategies as st
import pytest
from deadline import deadline
from hypothesis import given

from strata.lora_math.blocks import FAMILIES, BlockTextError, builtin_layout, grammar, parse
from strata.lora_math.blocks.preset_saving import delete_preset, save_preset
from strata.lora_math.blocks.presets import BUILTIN, MAX_PRESETS, builtin_presets, load_presets, read_presets, texts

# As sd-webui and Inspire publish them; ``a*n`` stands for n entries.
PUBLISHED = {
    "SD1.5": {
        "SD-INS": "1*4,0*13",
        "INS": "1*4,0*13",
        "IND": "1,0*3,1*3,0*10",
        "SD-IND": "1,0*3,1*3,0*10",
        "INALL": "1*7,0*10",
        "MIDD": "1,0*3,1*8,0*5",
        "OUTD": "1,0*7,1*4,0*5",
        "OUTS": "1,0*11,1*5",
        "OUTALL": "1,0*7,1*9",
        "SD-MIDD0.2": "1,0*5,0.2,0.4,0.4,0.2,0*7",
        "SD-MIDD0.8": "1,0*4,0.5,0.8,0.8,0.4,0*8",
        "SD-MOUT": "1,0*5,1*8,0.5,0,0",
        "SD-AOUT": "4,1*11,4*5",
        "SD-AB": "4,1*11,4*5",
        "SD-BODY": "1*8,0*3,1*6",
        "SD-BODY0.5": "1*6,0.2,1,0.2,0,0,0.8,1*5",
        "SD-FACE": "1,0*7,1*3,0*6",
        "SD-FACE0.5": "1,0*7,0.8,1,1,0.2,0*5",
        "SD-FACE0.2": "1,0*7,0.2,0.6,0.8,0.2,0*5",
        "SD-HAND": "1,0,1,1,0.2,0*12",
        "SD-CLOTHING": "1*5,0,0.2,0,0.8,1,1,0.2,0*5",
        "SD-POSE": "1,0*5,0.2,1,1,1,0*7",
        "SD-PALETTE": "1,0*10,0.8,1*5",
        "SD-KEEPCHAR": "1*5,0*3,1*7,0,0",
        "SD-KEEPBG": "1*6,0.2,1,0.2,0,0,0.8,1*3,0,0",
        "SD-REDUCEFIT": "1,0*7,1*9",
        "SD-LyC-INALL": "1*12,0*15",
        "SD-LyC-MIDALL": "1,0*11,1*3,0*12",
        "SD-LyC-OUTALL": "1,0*14,1*12",
        "SD-LyCOBODY": "1*13,0*5,1*8",
        "SD-LyCOBODY0.5": "1*9,0.2,0.2,0.5,1,1,0*3,0.2,0,0,0.8,1*5",
        "SD-LyCOFACE": "1,0*13,1*7,0*5",
        "SD-LyCOFACE0.5": "1,0*13,0.2,0.5,0.8,1*3,0.2,0*5",
        "SD-LyCOCLOTH": "1*8,0,0.2*3,0*4,0.5,0.8,1,1,0.2,0*5",
        "SD-LyCOPOSE": "1,0*8,0.2,1*9,0*7",
        "SD-LyCOKEEPBG": "1*9,0.2,0.4,0.8,1,1,0.8,0.4,0.2,0.2,0,0,0.8,1*3,0,0",
        "SD-LyCOPALETTE": "1,0*19,0.8,1*5",
    },
    "SDXL": {
        "SDXL-INALL": "1*5,0*7",
        "SDXL-MIDALL": "1,0*4,1,0*6",
        "SDXL-OUTALL": "1,0*5,1*6",
        "SDXL-LyC-INALL": "1*9,0*12",
        "SDXL-LyC-MIDALL": "1,0*8,1*3,0*9",
        "SDXL-LyC-OUTALL": "1,0*11,1*9",
    },
    "FLUX.1": {
        "FLUX-DBL-ALL": "1*20",
        "FLUX-DBL-FRONT7": "1*8,0*12",
        "FLUX-DBL-MID6": "1,0*7,1*6,0*6",
        "FLUX-DBL-TAIL6": "1,0*13,1*6",
        "FLUX-SINGLE-ALL": "1,0*19,1*38",
        "FLUX-SINGLE-1to10": "1,0*19,1*10,0*28",
        "FLUX-SINGLE-11to20": "1,0*29,1*10,0*18",
        "FLUX-SINGLE-21to30": "1,0*39,1*10,0*8",
        "FLUX-SINGLE-31to37": "1,0*49,1*8",
        "FLUX-ALL": "1*58",
        "FLUXALL": "1*61",
    },
}
# Every block at full, whatever the published vector's length: a full-strength preset equals the plain loader.
WHOLE = {
    "SD1.5": {
        "ALL": 1,
        "SD-ALL": 1,
        "SD-LyC-ALL": 1,
        "NONE": 0,
        "SD-NONE": 0,
        "ALL0.5": 0.5,
        "SD-ALL0.5": 0.5,
    },
    "SDXL": {"ALL": 1, "SDXL-ALL": 1, "SDXL-LyC-ALL": 1, "SDXL-LyC-NONE": 0, "Half Strength": 0.5},
    "FLUX.1": {"FLUX-ALL": 1, "FLUXALL": 1, "All Off": 0},
}


def expand(short):
    entries = []
    for item in short.split(","):
        value, _, times = item.partition("*")
        entries += [value] * int(times or 1)
    return ",".join(entries)


def block_weights(weights, layout):
    """Text encoders and every block, the middle's parts one by one."""
    resolved = weights.resolve(layout)
    keys = {"TE": f"{layout.encoders[0]}.transformer.x.weight"}
    for block in (*layout.blocks, *layout.aux):
        parts = ("0.", "1.", "2.") if block.group == "M" else ("",)
        keys |= {f"{block.name}.{part}": f"diffusion_model.{block.prefix}{part}x.weight" for part in parts}
    return {name: resolved.weight(key) for name, key in keys.items()}


@pytest.mark.parametrize(("family", "name"), [(f, n) for f in PUBLISHED for n in PUBLISHED[f]])
def test_public_presets_mean_what_their_vectors_mean(family, name):
    layout, named = builtin_layout(family), texts(load_presets(family))
    preset = block_weights(parse(name, layout, presets=named), layout)
    assert preset == block_weights(parse(expand(PUBLISHED[family][name]), layout), layout)


@pytest.mark.parametrize(("family", "name"), [(f, n) for f in WHOLE for n in WHOLE[f]])
def test_whole_presets_reach_everything(family, name):
    layout = builtin_layout(family)
    weights = parse(name, layout, presets=texts(load_presets(family)))
    assert set(block_weights(weights, layout).values()) == {WHOLE[family][name]}
    assert weights.resolve(layout).weight("diffusion_model.something_else.weight") == WHOLE[family][name]


# Realtime-Lora's presets: the blocks that are on.
REALTIME = {
    "SDXL": {
        "UNet Only": "IN4 IN5 IN7 IN8 M OUT0 OUT1 OUT2 OUT3 OUT4 OUT5",
        "High Impact": "IN7 IN8 M OUT0 OUT1 OUT2",
        "Text Encoders Only": "",
        "Decoders Only": "OUT0 OUT1 OUT2 OUT3 OUT4 OUT5",
        "Encoders Only": "IN4 IN5 IN7 IN8",
        "Style Focus": "OUT1 OUT2",
        "Composition Focus": "IN8 M OUT0",
        "Face Focus": "IN7 IN8 M OUT0 OUT1 OUT2 OUT3",
    },
    "FLUX.1": {
        "Double Blocks Only": " ".join(f"D{i}" for i in range(19)),
        "Single Blocks Only": " ".join(f"S{i}" for i in range(38)),
        "High Impact Double": " ".join(f"D{i}" for i in range(6, 19)),
        "Core Double": " ".join(f"D{i}" for i in range(8, 18)),
        "Face Focus": "D7 D12 D16 S7 S12 S16 S20",
        "Face Aggressive": "D4 D7 D8 D12 D15 D16 S4 S7 S8 S12 S15 S16 S19 S20",
        "Style Only (No Face)": " ".join(
            [f"D{i}" for i in range(19) if i not in (7, 12, 16)]
            + [f"S{i}" for i in range(38) if i not in (7, 12, 16, 20)]
        ),
        "Evens Only": " ".join([f"D{i}" for i in range(0, 19, 2)] + [f"S{i}" for i in range(0, 38, 2)]),
        "Odds Only": " ".join([f"D{i}" for i in range(1, 19, 2)] + [f"S{i}" for i in range(1, 38, 2)]),
    },
    "Z-Image": {
        "Late Only (20-29)": " ".join(f"L{i}" for i in range(20, 30)),
        "Mid-Late (15-29)": " ".join(f"L{i}" for i in range(15, 30)),
        "Skip Early (10-29)": " ".join(f"L{i}" for i in range(10, 30)),
        "Mid Only (10-19)": " ".join(f"L{i}" for i in range(10, 20)),
        "Early Only (0-9)": " ".join(f"L{i}" for i in range(10)),
        "Peak Impact (18-25)": " ".join(f"L{i}" for i in range(18, 26)),
        "Face Priority (16-24)": " ".join(f"L{i}" for i in range(16, 25)),
        "Face Priority Aggressive (14-25)": " ".join(f"L{i}" for i in range(14, 26)),
        "Evens Only": " ".join(f"L{i}" for i in range(0, 30, 2)),
        "Odds Only": " ".join(f"L{i}" for i in range(1, 30, 2)),
    },
    "Wan": {
        "Late Only (30-39)": " ".join(f"B{i}" for i in range(30, 40)),
        "Mid-Late (20-39)": " ".join(f"B{i}" for i in range(20, 40)),
        "Skip Early (10-39)": " ".join(f"B{i}" for i in range(10, 40)),
        "Mid Only (15-25)": " ".join(f"B{i}" for i in range(15, 26)),
        "Early Only (0-19)": " ".join(f"B{i}" for i in range(20)),
    },
    "Qwen-Image": {
        "Late Only (45-59)": " ".join(f"T{i}" for i in range(45, 60)),
        "Mid-Late (30-59)": " ".join(f"T{i}" for i in range(30, 60)),
        "Skip Early (15-59)": " ".join(f"T{i}" for i in range(15, 60)),
        "Mid Only (20-40)": " ".join(f"T{i}" for i in range(20, 41)),
        "Early Only (0-29)": " ".join(f"T{i}" for i in range(30)),
    },
    "FLUX.2": {
        "High Impact (Double 2-4)": "D2 D3 D4",
        "Late Singles (10-19)": " ".join(f"S{i}" for i in range(10, 20)),
        "High Impact (Double 4-7)": "D4 D5 D6 D7",
        "Late Singles (12-23)": " ".join(f"S{i}" for i in range(12, 24)),
    },
}


@pytest.mark.parametrize(("family", "name"), [(f, n) for f in REALTIME for n in REALTIME[f]])
def test_realtime_presets_turn_on_their_blocks(family, name):
    layout = builtin_layout(family)
    weights = parse(name, layout, presets=texts(load_presets(family)))
    on = {block for block, weight in block_weights(weights, layout).items() if block != "TE" and weight}
    names = {f"{b.group}{b.index}" if b.group != "M" else "M": b.name for b in layout.blocks}
    wanted = {names[name] for name in REALTIME[family][name].split()}
    assert {block.split(".")[0] for block in on} == wanted
    assert set(block_weights(weights, layout).values()) <= {0, 1}


def test_realtime_presets_and_the_text_encoder():
    layout, named = builtin_layout("SDXL"), texts(load_presets("SDXL"))
    te = {name: block_weights(parse(name, layout, presets=named), layout)["TE"] for name in REALTIME["SDXL"]}
    assert te == dict.fromkeys(REALTIME["SDXL"], 0) | {"Text Encoders Only": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_preset_parses_for_its_family(family):
    layout, named = builtin_layout(family), texts(load_presets(family))
    assert len(named) >= 10
    for name in named:
        weights = parse(name, layout, presets=named)
        assert parse(str(weights), layout) == weights
        assert not [note for note in weights.notes if " has no " in note or f"{family} has " in note], name


@pytest.mark.parametrize("path", sorted(BUILTIN.glob("*.json")), ids=lambda path: path.stem)
def test_the_packs_files_are_plain_json_that_every_family_of_theirs_can_read(path):
    json.loads(path.read_text(encoding="utf-8"))
    checked = read_presets(path, check_texts=True)
    assert checked == read_presets(path, check_texts=False)
    assert set(checked) <= set(builtin_presets())


MINE = """// my presets
{
  # SDXL first
  "SDXL": {
    "Soft face": "IN{7,8}=0.5, OUT0-3=0.8, default=0", /* two
    lines */
    "INALL // not a comment": {"weights": "IN=1, default=0", "about": "a # b"},
  },
  "*": {"Quiet": "default=0.25"}
}
"""


def test_user_files_with_comments(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(MINE, encoding="utf-8")
    presets = load_presets("SDXL", [path, tmp_path / "absent.json"])
    assert presets["Soft face"].weights == "IN{7,8}=0.5, OUT0-3=0.8, default=0" and presets["Soft face"].user
    assert presets["INALL // not a comment"].about == "a # b"
    assert "Soft face" not in load_presets("Wan", [path]) and "Quiet" in load_presets("Wan", [path])
    assert "Quiet" in load_presets(None, [path])


def test_a_users_preset_wins_over_the_packs(tmp_path):
    save_preset(tmp_path / "mine.json", "SDXL", "Face Focus", "default=0.5")
    assert load_presets("SDXL", [tmp_path / "mine.json"])["Face Focus"].weights == "default=0.5"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{\n  "SDXL": {\n    "a": "D=1"\n    "b": "D=1"\n  }\n}', 4),
        ('{\n  "SDXL": {\n\n    "a": "Q7=1"\n  }\n}', 4),
        ('{\n  "SDXL": {\n    "ok": "IN=1",\n    "a": 5\n  }\n}', 4),
        ('{\n  "SDXL": {\n    "a": {"weight": "IN=1"}\n  }\n}', 3),
        ('{\n  "SDXL": {\n    "a": {"weights": "IN=1", "colour": "red"}\n  }\n}', 3),
        ('{\n  "Stable Diffusion": {\n    "a": "IN=1"\n  }\n}', 2),
        ('{\n  "SDXL": []\n}', 2),
        ("[]", 1),
        ('// c\n/* c\n*/ {"SDXL": {\n  "a": "IN=x"}}', 4),
        ("[" * 50000, 1),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(tmp_path, text, line):
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BlockTextError, match=rf"^broken\.json, line {line}: "):
        load_presets("SDXL", [path])


def test_files_that_are_not_text(tmp_path):
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BlockTextError, match=r"binary\.json"):
        load_presets("SDXL", [path])
    with pytest.raises(BlockTextError, match="cannot be read"):
        read_presets(tmp_path)


def test_files_of_sd_webui_and_inspire(tmp_path):
    path = tmp_path / "lbwpresets.txt"
    path.write_text(
        f"# comment\nMINE:{expand('1,0*5,1*11')}\n\nXL:{expand('1*12')}\n@SD-FULL-TEST:17\n"
        f"SD-ROUT:{expand('1*8,R*9')}\nFLUX:{expand('1*58')} # trailing\nBOTH: {expand('1*20')}\n",
        encoding="utf-8",
    )
    families = {preset.name: preset.families for preset in read_presets(path)}
    assert families["MINE"] == ("SD1.5", "SD2") and families["XL"] == ("SDXL",)
    assert families["FLUX"] == ("FLUX.1", "Chroma") and set(families["BOTH"]) == {"SDXL", "FLUX.1", "Chroma"}
    sd = builtin_layout("SD1.5")
    weights = parse("MINE", sd, presets=texts(load_presets("SD1.5", [path])))
    assert weights == parse(expand("1,0*5,1*11"), sd)


@pytest.mark.parametrize("line", ["MIDD", "A:1,0,x", "A:1,0,0", "A:", ":1,0,1"])
def test_a_broken_line_of_a_text_file(tmp_path, line):
    path = tmp_path / "lbw.txt"
    path.write_text(f"# first\n{line}\n", encoding="utf-8")
    with pytest.raises(BlockTextError, match=r"^lbw\.txt, line 2: "):
        read_presets(path)


def test_saving(tmp_path):
    path = tmp_path / "deep" / "mine.json"
    save_preset(path, "SDXL", "One", "IN=0", "first")
    save_preset(path, None, "Two", "default=0.5")
    save_preset(path, "SDXL", "One", "IN=0.25")
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "SDXL": {"One": "IN=0.25"},
        "*": {"Two": "default=0.5"},
    }
    assert os.listdir(path.parent) == ["mine.json"]


def test_saving_keeps_comments_beside_the_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(MINE, encoding="utf-8")
    save_preset(path, "SDXL", "New", "IN=0")
    assert (tmp_path / "mine.json.bak").read_text(encoding="utf-8") == MINE
    assert {"New", "Soft face", "Quiet"} <= load_presets("SDXL", [path]).keys()


@pytest.mark.parametrize(
    ("family", "name", "text"), [("SDXL", "a", "Q=1"), ("Nope", "a", "IN=1"), ("SDXL", " ", "IN=1")]
)
def test_what_cannot_be_read_is_not_saved(tmp_path, family, name, text):
    with pytest.raises(BlockTextError):
        save_preset(tmp_path / "mine.json", family, name, text)
    assert not os.listdir(tmp_path)


def test_a_broken_file_is_not_overwritten(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"SDXL": {', encoding="utf-8")
    with pytest.raises(BlockTextError, match=r"^mine\.json, line 1"):
        save_preset(path, "SDXL", "a", "IN=1")
    assert path.read_text(encoding="utf-8") == '{"SDXL": {'


def test_readers_never_see_half_a_file(tmp_path):
    """A reader beside a writer gets a whole file every time."""
    path = tmp_path / "mine.json"
    save_preset(path, "SDXL", "0", "IN=0")
    done = threading.Event()

    def write():
        for number in range(20):
            save_preset(path, "SDXL", str(number), "IN=0", "long" * 5000)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert "0" in json.loads(path.read_text(encoding="utf-8"))["SDXL"]
    writer.join()


def test_eight_clients_that_save_at_once_lose_nothing(tmp_path):
    path = tmp_path / "mine.json"

    def client(number):
        for at in range(10):
            save_preset(path, ("SDXL", "FLUX.1", None)[at % 3], f"{number} {at}", "default=0.5")

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert {p.name for p in read_presets(path)} == {f"{number} {at}" for number in range(8) for at in range(10)}


def test_a_family_title_that_comes_twice_keeps_both_sections(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"SDXL": {"a": "IN=0", "b": "IN=0.1"}, "*": {}, "SDXL": {"b": "IN=0.2"}}', encoding="utf-8")
    assert load_presets("SDXL", [path])["b"].weights == "IN=0.2"
    save_preset(path, "SDXL", "c", "IN=0.3")
    found = {name: preset.weights for name, preset in load_presets("SDXL", [path]).items() if preset.user}
    assert found == {"a": "IN=0", "b": "IN=0.2", "c": "IN=0.3"}


def test_deleting_is_for_one_family(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(
        '{"SDXL, SD1.5": {"a": "IN=0"}, "FLUX.1": {"a": "D=0"}, "*": {"a": "default=0", "b": "default=1"}}',
        encoding="utf-8",
    )
    weights = lambda family: {n: p.weights for n, p in load_presets(family, [path]).items() if p.user}  # noqa: E731
    assert weights("SDXL")["a"] == "default=0", "the last one counts"
    assert delete_preset(path, "SDXL", "a"), "the one that the family sees"
    assert weights("SDXL") == {"a": "IN=0", "b": "default=1"}
    assert delete_preset(path, "SDXL", "a")
    assert weights("SDXL") == {"b": "default=1"}
    assert weights("SD1.5") == {"a": "IN=0", "b": "default=1"}, "what it shared stays with the others"
    assert weights("FLUX.1") == {"a": "D=0", "b": "default=1"}
    assert not delete_preset(path, None, "a")
    assert delete_preset(path, None, "b")
    assert not delete_preset(tmp_path / "none.json", None, "b")


@pytest.mark.parametrize(
    ("sections", "family", "seen"),
    [
        ({"SDXL": {"other": "IN=0"}, "*": {"mine": "default=0.5"}}, "SDXL", {"SDXL": "IN=0.25", "Wan": "default=0.5"}),
        (
            {"SDXL": {"other": "IN=0"}, "SDXL, SD1.5": {"mine": "IN=0.5"}},
            "SDXL",
            {"SDXL": "IN=0.25", "SD1.5": "IN=0.5"},
        ),
        ({"*": {"other": "default=0"}, "SDXL": {"mine": "IN=0.5"}}, None, {"SDXL": "IN=0.25", None: "IN=0.25"}),
        ({"SDXL": {"mine": "IN=0.5", " mine ": "IN=0.75"}}, "SDXL", {"SDXL": "IN=0.25"}),
    ],
)
def test_what_was_saved_acts(tmp_path, sections, family, seen):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(sections), encoding="utf-8")
    save_preset(path, family, "mine", "IN=0.25")
    assert {known: load_presets(known, [path])["mine"].weights for known in seen} == seen
    # No other program reads a key that comes twice, so none is written where it can be avoided.
    assert len(json.loads(path.read_text(encoding="utf-8"))) == len(sections) + (
        family == "SDXL" and "SDXL" not in sections
    )


def test_deleting_for_one_family_leaves_another_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"SDXL, SD1.5": {"mine": "IN=0.1"}, "SD1.5": {"mine": "IN=0.9"}}', encoding="utf-8")
    assert delete_preset(path, "SDXL", "mine")
    assert load_presets("SD1.5", [path])["mine"].weights == "IN=0.9"
    assert "mine" not in load_presets("SDXL", [path])


SEEN_BY = ("SDXL", "SD1.5", "FLUX.1", "Wan", None)
own_sections = st.lists(
    st.tuples(
        st.sampled_from(["SDXL", "SD1.5", "*", "SDXL, SD1.5", "SD1.5,SDXL , FLUX.1", "FLUX.1, SDXL", "SD1.5, SD1.5"]),
        st.lists(st.sampled_from(["x", " x", "y", "z "]), max_size=3, unique=True),
    ),
    max_size=6,
)


def stacks(sections) -> dict:
    """(family, name) -> every text that a file holds for it, the one that counts last, and whether it is one for all families."""
    found = {}
    for title, entries in sections:
        # Spaces around a name make no other one of it.
        for name, text in {name.strip(): text for name, text in entries}.items():
            for family in SEEN_BY:
                if title == "*" or family in [known.strip() for known in title.split(",")]:
                    found.setdefault((family, name), []).append((text, title == "*"))
    return found


def own_texts(path) -> dict:
    return {(f, n): p.weights for f in SEEN_BY for n, p in load_presets(f, [path]).items() if p.user}


@given(
    own_sections,
    st.lists(st.tuples(st.booleans(), st.sampled_from(SEEN_BY), st.sampled_from("xyz")), min_size=1, max_size=4),
)
def test_saving_and_deleting_change_what_they_are_asked_to_and_nothing_else(tmp_path_factory, written, steps):
    path = tmp_path_factory.getbasetemp() / "law.json"
    sections = [(t, [(n, f"default=0.{at}{i}") for i, n in enumerate(names)]) for at, (t, names) in enumerate(written)]
    bodies = (
        f"{json.dumps(t)}: {{{', '.join(f'{json.dumps(n)}: {json.dumps(w)}' for n, w in e)}}}" for t, e in sections
    )
    path.write_text(f"{{{', '.join(bodies)}}}", encoding="utf-8")
    known = stacks(sections)
    expected = {key: texts[-1][0] for key, texts in known.items()}
    assert own_texts(path) == expected
    for number, (saves, family, name) in enumerate(steps):
        if saves:
            save_preset(path, family, name, f"default=7.{number}")
            asked = SEEN_BY if family is None else (family,)
            expected |= {(seen, name): f"default=7.{number}" for seen in asked}
            assert own_texts(path) == expected
        else:
            before = own_texts(path)
            mine = load_presets(family, [path]).get(name)
            assert delete_preset(path, family, name) == ((family, name) in before)
            after = own_texts(path)
            asked = {(family, name)}
            if mine is not None and not mine.families:
                asked = {(seen, name) for seen in SEEN_BY if before.get((seen, name)) == mine.weights}
            assert {key: text for key, text in after.items() if key not in asked} == {
                key: text for key, text in before.items() if key not in asked
            }
            assert all(key not in before or after.get(key) != before[key] for key in asked)
            if number == 0 and asked == {(family, name)} and (family, name) in known:
                assert after.get((family, name)) == next((text for text, _ in known[family, name][-2::-1]), None)
            expected = after


def test_names_with_spaces_around_are_one_name(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"SDXL": {" mine ": "IN=0"}}', encoding="utf-8")
    save_preset(path, "SDXL", " mine", "IN=0.5")
    assert [(p.name, p.weights) for p in read_presets(path)] == [("mine", "IN=0.5")]
    assert delete_preset(path, "SDXL", "mine  ")
    assert not read_presets(path)


def test_a_link_stays_a_link_and_a_mode_a_mode(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "shared.json", tmp_path / "mine.json"
    target.write_text("{}", encoding="utf-8")
    target.chmod(0o664)
    link.symlink_to(target)
    save_preset(link, "SDXL", "a", "IN=0")
    assert link.is_symlink()
    assert "a" in json.loads(target.read_text(encoding="utf-8"))["SDXL"]
    assert target.stat().st_mode & 0o777 == 0o664
    assert os.listdir(target.parent) == ["shared.json"]


def test_a_new_file_has_the_mode_that_files_have_here(tmp_path):
    save_preset(tmp_path / "mine.json", "SDXL", "a", "IN=0")
    (tmp_path / "other").touch()
    assert (tmp_path / "mine.json").stat().st_mode == (tmp_path / "other").stat().st_mode


BAD_NAMES = [
    "default=0",
    "IN4=0.5",
    "1,0,1",
    "a,R",
    "x;",
    "{a",
    "%a",
    "<lora:x:lbw=MIDD>",
    "",
    "  ",
    "a\nb",
    "\x7f",
    "\ud800",
    "x" * 101,
    "invert(MIDD)",
    "Invert (x",
    "seed(1, MIDD)",
    "even(IN)",
    "odd(D0-10)",
    "*",
    "IN*",
    "none",
    "None",
    "(none)",
    "<none>",
    "[]",
    "null",
    "auto",
    "Auto",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_reads_as_something_else_is_refused(tmp_path, name):
    with pytest.raises(BlockTextError, match="name"):
        save_preset(tmp_path / "mine.json", "SDXL", name, "IN=0")
    assert not os.listdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"SDXL": {"fine": "IN=0", name: "IN=1"}}), encoding="utf-8")
    with pytest.raises(BlockTextError, match=r"^mine\.json, line 1: "):
        load_presets("SDXL", [tmp_path / "mine.json"])


MEANS_BLOCKS = [
    *("TE", "te", "TE:clip_l", "TE:t5xxl.3", "OTHER", "other", "default", "Default", "even", "ODD"),
    *("IN4", "in4", "M", "OUT", "D0-10", "S{7,12}", "IN3-OUT2", "B", "IN4.attn", "0%-50%", "attn", "Img", "IN4, OUT2"),
]


@pytest.mark.parametrize("family", [*FAMILIES, None])
def test_every_block_and_group_of_a_family_is_a_name_that_means_blocks(tmp_path, family):
    layout = builtin_layout(family or "SDXL")
    names = {*layout.counts, *(block.name for block in layout.blocks), *(f"TE:{name}" for name in layout.encoders)}
    for name in sorted(names):
        with pytest.raises(BlockTextError, match="word of block weights"):
            save_preset(tmp_path / "mine.json", family, name, "default=0")


@pytest.mark.parametrize("name", MEANS_BLOCKS)
def test_a_name_that_means_blocks_is_not_saved_and_an_old_one_still_read(tmp_path, name):
    path = tmp_path / "mine.json"
    with pytest.raises(BlockTextError, match=r"word of block weights.*Give the preset another name"):
        save_preset(path, "SDXL", name, "IN*=0")
    assert not path.exists()
    path.write_text(json.dumps({"SDXL": {name: "IN*=0"}}), encoding="utf-8")
    layout, named = builtin_layout("SDXL"), texts(load_presets("SDXL", [path]))
    assert parse(name, layout, presets=named) == parse("IN*=0", layout)
    save_preset(path, "SDXL", "mine", "IN*=1")
    assert [preset.name for preset in read_presets(path)] == [name, "mine"]
    assert delete_preset(path, "SDXL", name)


def test_no_preset_of_the_pack_is_called_as_blocks_are():
    names = {name for preset in builtin_presets() for name in (preset.name, *preset.also)}
    # Inspire publishes one of that name: all blocks at 1.
    assert {name for name in names if grammar.means_blocks(name)} == {"Default"}


@pytest.mark.parametrize(
    "name",
    [
        "MIDD 2",
        "IN4 soft",
        "S 2",
        "teal",
        "a: b",
        "\u4eba\u50cf",
        "\u4eba \u50cf\u3000x",
        "\U0001f469\u200d\U0001f3a8",
        "1",
        "50%",
        "Face (2-4)",
        "evening (x)",
        "NONE",
        "face(2)",
    ],
)
def test_other_names_are_the_persons_own(tmp_path, name):
    save_preset(tmp_path / "mine.json", "SDXL", name, "IN=0")
    layout, named = builtin_layout("SDXL"), texts(load_presets("SDXL", [tmp_path / "mine.json"]))
    assert parse(name, layout, presets=named) == parse("IN=0", layout)
    assert delete_preset(tmp_path / "mine.json", "SDXL", name)


@pytest.mark.parametrize("field", ["weights", "about"])
def test_half_a_character_is_refused(tmp_path, field):
    body = {"weights": "IN=0", "about": "", field: "IN=0 \udfff" if field == "weights" else "\udfff"}
    with pytest.raises(BlockTextError):
        save_preset(tmp_path / "mine.json", "SDXL", "a", **body)
    assert not os.listdir(tmp_path)


def test_half_a_character_in_the_file_survives_the_next_save(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(r'{"SDXL": {"a": {"weights": "IN=0", "about": "\ud800"}}}', encoding="utf-8")
    save_preset(path, "SDXL", "mine", "IN=1")
    assert [p.about for p in read_presets(path)] == ["\ud800", ""]


@pytest.mark.parametrize("size", [MAX_PRESETS + 1, 400_000])
def test_a_file_of_more_presets_than_anyone_has_is_refused(tmp_path, size):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"*": {f"p{n}": "default=0" for n in range(size)}}), encoding="utf-8")
    with deadline(), pytest.raises(BlockTextError, match=r"mine\.json (holds|is larger)"):
        load_presets("SDXL", [path])


def test_a_full_file_takes_no_more(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"*": {f"own {n}": "default=0" for n in range(MAX_PRESETS)}}), encoding="utf-8")
    save_preset(path, None, "own 7", "default=1")
    with pytest.raises(BlockTextError, match="Delete some"):
        save_preset(path, None, "one more", "default=1")
    assert len(load_presets(None, [path])) > MAX_PRESETS
