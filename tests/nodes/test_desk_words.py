"""Every language says every word of the desk, with the same placeholders."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "web" / "lib" / "i18n.js").read_text(encoding="utf-8")
ENGLISH = dict(re.findall(r"^  (\w+): '([^']*)',?$", SOURCE, re.MULTILINE))


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
    said |= {f"{name}{end}" for name in ("reset", "invert", "paste", "copy", "mute", "solo") for end in ("", "Hint")}
    assert said == ENGLISH.keys()
