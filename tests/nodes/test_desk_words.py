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


def test_every_word_that_is_said_exists():
    said = {
        key
        for file in (ROOT / "web").rglob("*.js")
        for key in re.findall(r"\bt\('(\w+)'", file.read_text(encoding="utf-8"))
    }
    said |= set(
        re.findall(r"^  \w+: '(group\w+)',$", (ROOT / "web" / "desk" / "names.js").read_text("utf-8"), re.MULTILINE)
    )
    said |= {f"{name}{end}" for name in ("reset", "invert", "paste", "copy", "mute", "solo") for end in ("", "Hint")}
    assert said == ENGLISH.keys()


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
