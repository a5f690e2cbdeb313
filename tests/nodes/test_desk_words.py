"""Every language says every word of the desk, with the same placeholders."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "web" / "lib" / "i18n.js").read_text(encoding="utf-8")
ENGLISH = dict(re.findall(r"^  (\w+):\s+'([^']*)',?$", SOURCE, re.MULTILINE))


@pytest.mark.parametrize("path", sorted((ROOT / "locales").glob("*/main.json")), ids=lambda path: path.parent.name)
def test_words(path):
    words = json.loads(path.read_text(encoding="utf-8"))["strata"]
    assert words.keys() == ENGLISH.keys()
    for key, text in ENGLISH.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", words[key])), key


def test_every_word_is_said_and_every_word_that_is_said_exists():
    """A word is said where its key stands as a literal, or is put together from one: ``t(`sort_${name}`)``."""
    code = "\n".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "web").rglob("*.js") if file.name != "i18n.js"
    )
    assert set(re.findall(r"\bt\('(\w+)'", code)) <= ENGLISH.keys()
    literals = set(re.findall(r"'(\w+)'", code))
    starts, ends = set(re.findall(r"`(\w+)\$\{", code)), set(re.findall(r"\$\{\w+\}(\w+)`", code))
    unsaid = {
        key
        for key in ENGLISH.keys() - literals
        if not any(key.startswith(start) and key.removeprefix(start) in literals for start in starts)
        and not any(key.endswith(end) and key.removesuffix(end) in literals for end in ends)
    }
    assert unsaid == set()


def test_every_preset_says_what_it_is_for_in_every_language():
    """By its English words, so that a preset of the same name in another family may be for something else."""
    abouts = {
        preset["about"]
        for file in (ROOT / "lora_math" / "blocks" / "presets").glob("*.json")
        for presets in json.loads(file.read_text(encoding="utf-8")).values()
        for preset in presets.values()
        if isinstance(preset, dict) and preset.get("about")
    }
    for path in (ROOT / "locales").glob("*/main.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["strataPresets"].keys() == abouts
