"""Help pages: one for every node in both languages, with every input and output on it, and pictures that exist."""

import asyncio
import re
from pathlib import Path

import pytest

from strata.lora_math.blocks import FAMILIES, builtin_layout
from strata.lora_math.tags import read_tags
from strata.nodes import StrataExtension
from strata.nodes.fitting.block_spec import BlockSpec

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
SCHEMAS = [node.define_schema() for node in asyncio.run(StrataExtension().get_node_list())]
# The frontend asks for <node>/<locale>.md, then for <node>.md, which is English.
PAGES = [(schema, page) for schema in SCHEMAS for page in (f"{schema.node_id}.md", f"{schema.node_id}/zh.md")]


@pytest.mark.parametrize(("schema", "page"), PAGES, ids=[page for _, page in PAGES])
def test_every_input_and_output_is_explained(schema, page):
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in text.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in row}
    assert {i.id for i in schema.inputs} | {o.display_name or o.id for o in schema.outputs} <= explained


@pytest.mark.parametrize(("schema", "page"), PAGES, ids=[page for _, page in PAGES])
def test_its_pictures_exist(schema, page):
    """Paths count from docs/ on both pages, wherever the page itself lies."""
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / picture).is_file()


def test_no_page_is_left_of_a_node_that_is_gone():
    nodes = {schema.node_id for schema in SCHEMAS}
    assert {path.stem if path.parent == DOCS else path.parent.name for path in DOCS.rglob("*.md")} == nodes


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_in_grey_can_be_typed_for_every_model(family):
    """The empty field of LoRA from Prompt shows one: here the second LoRA leaves the first half of the model alone."""
    (schema,) = (schema for schema in SCHEMAS if schema.node_id == "StrataLoraFromPrompt")
    (text,) = (field for field in schema.inputs if field.id == "text")
    cleaned, tags = read_tags(text.placeholder)
    assert cleaned == "a portrait"
    assert [(tag.name, tag.strength_model, tag.strength_clip) for tag in tags] == [
        ("style", 0.8, 0.8),
        ("detail", 0.5, 0.3),
    ]
    layout = builtin_layout(family)
    weights = BlockSpec(tags[1].block_weights).read(layout)
    assert not weights.notes
    values = [weights.resolve(layout).weight(f"diffusion_model.{block.prefix}x.weight") for block in layout.blocks]
    assert set(values) == {0, 1}
    assert values == sorted(values)
