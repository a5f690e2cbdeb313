"""The words of the picture in the language of the page. A sentence stands in the code in English, with names for what changes in it; other
languages have it in ``locales/<language>/main.json``, under "strataPicture"."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

Say = Callable[..., str]
SECTION = "strataPicture"
LOCALES = Path(__file__).resolve().parents[2] / "locales"
_LANGUAGE = re.compile(r"[A-Za-z]{2}(?:-[A-Za-z]{2})?")


def english(text: str, **values) -> str:
    return text.format(**values)


def saying(language: str) -> Say:
    """For a language of the editor; English for one that has no translation."""
    table = _table(language) if _LANGUAGE.fullmatch(language) else {}
    return lambda text, **values: table.get(text, text).format(**values)


@lru_cache(maxsize=16)
def _table(language: str) -> Mapping[str, str]:
    try:
        found = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found.get(SECTION, {})
