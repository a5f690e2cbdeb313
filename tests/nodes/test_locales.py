"""Translations against the real schemas: every node, input and output has an entry in each language, and no entry is left behind."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from strata.nodes import StrataExtension

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
# Languages that the frontend offers; it ignores other folders.
OFFERED = {"en", "zh", "zh-TW", "ru", "ja", "ko", "fr", "es", "ar", "tr", "pt-BR", "fa", "he"}
# What vue-i18n takes for its own syntax in names and descriptions, unless it is written {'@'}. Tooltips are read as they are.
SYNTAX = re.compile(r"[@{}|%]")
CHINESE = re.compile(r"[\u4e00-\u9fff]")

SCHEMAS = [node.define_schema() for node in asyncio.run(StrataExtension().get_node_list())]


def of_python(schema) -> dict:
    """The entry of a node as its schema words it."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs},
        "outputs": {
            str(at): {"name": o.display_name or o.id, "tooltip": o.tooltip} for at, o in enumerate(schema.outputs)
        },
    }


def read(language: str, file: str) -> dict:
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def leaves(tree: dict, path=()):
    """(path, text) of every text in it."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def plain(text: str) -> str:
    """An escaped text as it is shown."""
    return re.sub(r"\{'(.)'\}", r"\1", text)


def test_the_languages_are_some_that_the_frontend_offers():
    assert {"en", "zh"} <= set(LANGUAGES) <= OFFERED


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.node_id)
def test_every_text_is_there_in_python(schema):
    for path, text in leaves(of_python(schema)):
        assert text and text.strip(), f"{schema.node_id} has no {'.'.join(path)}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_has_an_entry_and_every_entry_a_text(language):
    expected = {path for path, _ in leaves({schema.node_id: of_python(schema) for schema in SCHEMAS})}
    found = dict(leaves(read(language, "nodeDefs.json")))
    assert found.keys() == expected
    assert all(text.strip() for text in found.values())


def test_english_is_what_python_says():
    expected = {schema.node_id: of_python(schema) for schema in SCHEMAS}
    for path, text in leaves(read("en", "nodeDefs.json")):
        wanted = expected
        for key in path:
            wanted = wanted[key]
        assert (text if path[-1] == "tooltip" else plain(text)) == wanted


def test_chinese_is_chinese():
    for path, text in leaves(read("zh", "nodeDefs.json")):
        if path[-1] in ("description", "tooltip"):
            assert CHINESE.search(text), path


def test_names_are_chinese_but_for_names_of_types():
    for path, text in leaves(read("zh", "nodeDefs.json")):
        if path[-1] == "name":
            assert CHINESE.search(text) or text.isupper(), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_descriptions_are_no_message_syntax(language):
    for path, text in leaves(read(language, "nodeDefs.json")):
        if path[-1] != "tooltip":
            assert not SYNTAX.search(re.sub(r"\{'.'\}", "", text)), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_categories_of_the_pack_are_named(language):
    """Other segments are core's, which has its own names for them."""
    named = read(language, "main.json")["nodeCategories"]
    used = {segment for schema in SCHEMAS for segment in schema.category.split("/")}
    assert named.keys() == used - {"loaders"}
    assert all(named.values())


@pytest.mark.parametrize("file", ["main.json", "settings.json"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_other_texts_are_the_same_in_every_language(language, file):
    assert dict(leaves(read(language, file))).keys() == dict(leaves(read("en", file))).keys()
