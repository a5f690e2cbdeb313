"""The words of Inspect LoRA's picture in other languages, against the code that says them."""

import ast
import json
import re
from pathlib import Path

import pytest

from strata.lora_math.reading.training_facts import _PLAIN
from strata.nodes.inspecting import saying
from strata.nodes.inspecting.saying import SECTION, english
from strata.nodes.inspecting.view import view
from strata.nodes.stack import StackEntry
from strata.tests.nodes.helpers import lora_makers, small_models

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir())
# What is looked up by a name that is no text of the code.
LABELS = {*(label for label, _ in _PLAIN), "dataset", "trainer", "trigger words"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
PLACE = re.compile(r"\{(\w+)\}")


def said() -> set[str]:
    """The first argument of every ``say`` in the code, written there or in a variable of its function."""
    found = set()
    for path in (ROOT / "nodes" / "inspecting").glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            texts = {}
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                    texts.setdefault(getattr(node.targets[0], "id", ""), set()).add(node.value.value)
            for node in ast.walk(function):
                name = getattr(getattr(node, "func", None), "id", None) or getattr(
                    getattr(node, "func", None), "attr", None
                )
                if isinstance(node, ast.Call) and name == "say":
                    first = node.args[0]
                    found |= (
                        {first.value} if isinstance(first, ast.Constant) else texts.get(getattr(first, "id", ""), set())
                    )
    return found


def table(language) -> dict[str, str]:
    return json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))[SECTION]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_has_its_translation_with_the_same_places(language):
    found = table(language)
    assert set(found) == said() | LABELS
    assert len(said()) > 50
    for text, other in found.items():
        assert other.strip()
        assert set(PLACE.findall(other)) == set(PLACE.findall(text)), text


def test_english_is_what_the_code_says():
    assert all(text == other for text, other in table("en").items())


@pytest.mark.parametrize("language", ["../en", "zz", "", "zh/../zh", "z" * 10_000, "\0\0", "en"])
def test_a_language_that_nobody_has_is_english(language):
    assert saying.saying(language)("rank {rank}", rank=3) == english("rank {rank}", rank=3) == "rank 3"


def test_the_picture_is_chinese_but_for_names_and_numbers(lora_folder):
    model = small_models.sd15()
    header = {"ss_steps": "1200", "ss_optimizer": "AdamW8bit"}
    names = [
        lora_folder.save(f"{at}.safetensors", lora_makers.full_lora(model, seed=at, rank=2), header) for at in (1, 2)
    ]
    # What stands between the places of each English sentence, where it is more than a word.
    english_parts = {
        part.strip(" :;,.") for text in table("en") for part in PLACE.split(text)[::2] if len(part.split()) > 1
    }
    assert len(english_parts) > 40
    for count in (1, 2):
        picture = view([StackEntry(name, 1.0, 0.5) for name in names[:count]]).picture(400, saying.saying("zh"))
        shown = [picture.said, *(text for shape in picture.shapes for text in (shape.text, shape.hover))]
        assert sum(bool(CHINESE.search(text)) for text in shown) > 20
        assert [(text, part) for text in shown for part in english_parts if part in text] == []
