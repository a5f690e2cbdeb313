"""The table of families: every row says everything, or says why it cannot; and what it says agrees with what stands on it."""

import dataclasses
import re

import pytest

from strata.lora_math import families
from strata.lora_math.blocks import FAMILIES, builtin_layout
from strata.lora_math.blocks.builtin import resized
from strata.lora_math.blocks.groups import AUX, MAIN
from strata.lora_math.blocks.parts import _STREAM_STYLES
from strata.lora_math.blocks.presets import builtin_presets
from strata.lora_math.blocks.vectors import forms
from strata.lora_math.family import guess_of
from strata.lora_math.writing.header import header
from strata.lora_math.writing.layouts import Naming

# Columns that are rightly empty where the family has nothing of the kind.
OPTIONAL = {"style", "word", "relatives", "marks", "gaps"}
COLUMNS = [f.name for f in dataclasses.fields(families.Family) if f.name not in OPTIONAL]


@pytest.mark.parametrize("row", families.TABLE, ids=lambda row: row.name)
def test_every_column_is_filled_or_excused(row):
    empty = {column for column in COLUMNS if not getattr(row, column)}
    assert empty == row.gaps.keys(), "filled columns need no excuse, empty ones need one"
    assert all(reason.strip() for reason in row.gaps.values())


@pytest.mark.parametrize("row", families.TABLE, ids=lambda row: row.name)
def test_rows_agree_with_what_stands_on_them(row):
    assert set(row.lists) <= {*MAIN, *AUX}
    assert all(lists.keys() <= row.lists.keys() for lists in row.depths.values())
    assert set(row.encoders) <= families.ENCODERS.keys() and set(row.relatives) <= families.FAMILIES.keys()
    assert row.style in ("", *(style for style, _ in _STREAM_STYLES))
    assert row.signs.layers or any(name == row.name for _, name in families.ONLY)
    signs = row.signs
    patterns = [
        row.header,
        signs.layers,
        signs.lacks,
        signs.hidden,
        signs.own,
        *(p for p, *_ in (*signs.inputs, *signs.ratios)),
    ]
    for pattern in patterns:
        re.compile(pattern)


def test_names_and_classes_are_nobody_elses():
    assert len(families.FAMILIES) == len(families.TABLE)
    classes = [name for row in families.TABLE for name in row.classes]
    assert len(set(classes)) == len(classes)
    for row in families.TABLE:
        assert all(families.of_class(name.rstrip("*")) == row.name for name in row.classes)


def test_relatives_know_each_other():
    for row in families.TABLE:
        assert all(row.name in families.FAMILIES[other].relatives for other in row.relatives)
        assert all(families.related(row.name, other) and families.related(other, row.name) for other in row.relatives)
    assert not families.related("SDXL", "FLUX.1") and not families.related(None, "SDXL")
    # Which pairs there are is said a second time here: without one, the other's LoRAs would be called misfits.
    pairs = {frozenset(pair) for pair in (("FLUX.1", "Chroma"), ("Z-Image", "Lumina 2"), ("LTX-Video", "LTX-2"))}
    assert set(families.RELATIVES) == {*pairs, frozenset(("Cosmos Predict2", "Anima"))}


def test_what_is_written_is_read_back_as_the_family():
    """By either of the header's two names, where the layers' own tell nothing."""
    unknown = {"nobody_knows_this_layer": None}
    for row in families.TABLE:
        if row.base_version:
            written = header("a", (), row.name, [4], {}, "2026-01-01")
            assert guess_of(unknown, metadata=written).family == row.name
            of_kohya = {"ss_base_model_version": written["ss_base_model_version"]}
            assert guess_of(unknown, metadata=of_kohya).family == row.name
            assert written["modelspec.architecture"] == f"{row.architecture}/lora"
            assert ("ss_v2" in written) == (row.name == "SD2")


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_that_are_read(family):
    """Public lengths by the forms that ``vectors`` really takes, apart from plain lists of blocks."""
    titles = ("every block", "BASE and every block", "BASE, every block, OTHER")
    read = {length for length, form in forms(builtin_layout(family)).items() if form.title not in titles}
    assert read == set(families.FAMILIES[family].vectors)


def test_presets_are_for_families_of_the_table():
    assert {family for preset in builtin_presets() for family in preset.families} <= families.FAMILIES.keys()


@pytest.mark.parametrize(("family", "width"), [(row.name, width) for row in families.TABLE for width in row.depths])
def test_a_width_tells_the_depth(family, width):
    if family in FAMILIES:
        layout, row = builtin_layout(family, width), families.FAMILIES[family]
        expected = {**row.lists, **row.depths[width]}
        counted = {
            path: sum(b.prefix.startswith(f"{path}.") for b in (*layout.blocks, *layout.aux)) for path in expected
        }
        assert counted == expected


def test_an_unknown_width_is_the_largest_common_model():
    assert builtin_layout("FLUX.2", 1234) == builtin_layout("FLUX.2") == builtin_layout("FLUX.2", 6144)
    assert resized(builtin_layout("Cosmos"), {"B": 2}).blocks[1].prefix == "blocks.block1."


@pytest.mark.parametrize("name", ["WAN_Animate2", "QwenImage21", "SomethingNew", "", "BASE", "NoneType"])
def test_a_class_that_no_row_names(name):
    assert families.of_class(name) is None


@pytest.mark.parametrize(
    ("said", "family"),
    [
        ("lightricks-ltx-video-2/lora", "LTX-2"),
        ("ltx-2", "LTX-2"),
        ("ltxv2", "LTX-2"),
        ("lightricks-ltx-video", "LTX-Video"),
        ("ltx-video-2b-v0.9", "LTX-Video"),
        ("ltxv-13b-0.9.8", "LTX-Video"),
    ],
)
def test_the_two_ltx_models_by_their_headers(said, family):
    """LTX-Video has 2 billion parameters in one of its sizes, which is no version."""
    assert guess_of({"nobody_knows_this_layer": None}, metadata={"modelspec.architecture": said}).family == family


@pytest.mark.parametrize(
    ("family", "name"),
    [
        # sd-scripts trains SD1.5 and SD2 as diffusers has them, and SDXL as Stability has it.
        ("SD1.5", "lora_unet_down_blocks_0_attentions_0_proj_in"),
        ("SD2", "lora_unet_down_blocks_0_attentions_0_proj_in"),
        ("SDXL", "lora_unet_input_blocks_1_1_proj_in"),
    ],
)
def test_the_kohya_layout_has_the_names_that_sd_scripts_writes(family, name):
    known = ("lora_unet_input_blocks_1_1_proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in")
    assert Naming("kohya", family).module("diffusion_model.input_blocks.1.1.proj_in", known) == name
