"""A person's own presets, however many: the file is read once for each of its contents."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from deadline import deadline

from strata.lora_math.blocks import FAMILIES, BlockTextError, builtin_layout, save_preset
from strata.nodes.block_weights import StrataLoraBlockWeights
from strata.nodes.fitting import block_spec
from strata.nodes.fitting.block_spec import BlockSpec, preset_names


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Where the person's presets are: a file of four hundred, for every second family and for all."""
    file = tmp_path / "block_presets.json"
    monkeypatch.setattr("strata.nodes.fitting.block_spec.user_preset_file", lambda: str(file))
    sections = {"SDXL, FLUX.1, Wan": {}, "*": {}}
    for n in range(400):
        list(sections.values())[n % 2][f"mine {n}"] = f"default=0.{n}" if n % 2 else f"TE=0.{n}, default=1"
    file.write_text(json.dumps(sections), encoding="utf-8")
    return file


def test_the_file_is_read_once_for_a_text_that_every_family_is_asked_about(own, monkeypatch):
    reads = []
    read = block_spec.read_preset_file
    monkeypatch.setattr(
        block_spec, "read_preset_file", lambda *given, **named: (reads.append(given), read(*given, **named))[1]
    )
    with deadline():
        for text in ("mine 7", "IN4=0.5", "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0", "mine 8"):
            assert StrataLoraBlockWeights.execute("auto", "none", text, 0, False).result[1]
        assert {"mine 0", "mine 399"} <= set(preset_names())
    assert len(reads) == 1
    save_preset(own, None, "mine 7", "default=0.25")
    assert BlockSpec("mine 7").canonical().endswith("default=0.25")
    assert len(reads) == 2


def test_a_broken_text_is_an_error_only_for_the_families_that_have_it(own):
    own.write_text('{"SDXL": {"bad": "Q7=1", "good": "IN4=0"}, "FLUX.1": {"fine": "D4=0"}}', encoding="utf-8")
    assert {"bad", "good", "fine"} <= set(preset_names())
    assert BlockSpec("fine", "FLUX.1").canonical()
    with pytest.raises(BlockTextError, match="line 1: the preset 'bad'"):
        BlockSpec("good", "SDXL").canonical()


ZEROS = ",0" * 11
FORMS = (
    "{}",
    "lbw={}",
    ":lbw={}",
    "w={}",
    "<lora:x:1:lbw={}>",
    "invert({})",
    "invert(lbw={})",
    "lbw=invert({})",
    "{};A=1",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "core", [f"R{ZEROS}", f"u{ZEROS}", f"NAME:R{ZEROS}", "1" + ",R" * 16, "rnd", "RND", "{R" + ",0" * 18 + "}"]
)
def test_a_random_text_keeps_its_seed_in_every_form(own, core, form):
    own.write_text(json.dumps({"SDXL": {"rnd": f"lbw=R{ZEROS}"}}), encoding="utf-8")
    spec = BlockSpec(form.format(core.strip("{}")), seed=42)
    for inverted in (spec, replace(spec, invert=True)):
        read = 0
        for family in FAMILIES:
            layout = builtin_layout(family)
            try:
                wanted = inverted.read(layout)
            except BlockTextError:
                continue
            read += 1
            for text in (inverted.for_tag(), inverted.canonical()):
                # A reader draws with another seed.
                assert str(BlockSpec(text, seed=7).read(layout)) == str(wanted), (text, family)
        assert read


@pytest.mark.parametrize(
    "text",
    ["MIDD", "lbw=UNet Only", "invert(INS)", "1,0,1", "seed(3, 1,R,R)", "R=1", "lbw=seed(3, R,0)", "invert(", ""],
)
def test_a_text_without_chance_carries_no_seed(own, text):
    assert BlockSpec(text, seed=42).for_tag() == text


def test_a_broken_file_of_presets_takes_no_seed_away(own):
    own.write_text("{", encoding="utf-8")
    assert BlockSpec("lbw=1,R,0", seed=42).for_tag() == "seed(42, lbw=1,R,0)"


@pytest.mark.parametrize("comment", ["#" * 100_000, "/" * 100_000, "/*" * 50_000])
def test_a_row_of_comment_signs_does_not_stop_the_start(own, comment):
    own.write_text(comment + "\n" + Path(own).read_text(encoding="utf-8"), encoding="utf-8")
    with deadline():
        found = StrataLoraBlockWeights.define_schema()
    names = next(field for field in found.inputs if field.id == "preset").options
    assert ("mine 3" in names) is not comment.startswith("/*")  # that comment has no end
