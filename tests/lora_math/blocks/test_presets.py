"""Presets: the pack's against the published vectors, and the users' files, whole and broken."""

import json

import pytest

from strata.lora_math.blocks import FAMILIES, BlockTextError, builtin_layout, parse
from strata.lora_math.blocks.preset_saving import save_preset
from strata.lora_math.blocks.presets import BUILTIN, builtin_presets, load_presets, read_presets, texts

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
