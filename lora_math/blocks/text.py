"""Any text that means block weights -> a value: the grammar, a preset's name, or one of the forms of other
programs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace

from . import grammar, legacy, selector, vectors
from .errors import BlockTextError
from .layout import Layout
from .weights import BlockWeights

MAX_WRAPPED = 4
# Inspire names its own presets like this.
_INSPIRE_NAME = re.compile(r"\s*(SD|SDXL|FLUX)-")


def parse(
    text: str,
    layout: Layout,
    *,
    seed: int = 0,
    presets: Mapping[str, str] | None = None,
    placeholders: Mapping[str, float] | None = None,
) -> BlockWeights:
    """Block weights for this model.

    ``presets``: names and their texts. ``seed`` decides the vector entries R and U, ``placeholders`` the
    entries A, B and X. An empty text is weight 1 everywhere. Raises BlockTextError for whatever is not wholly
    understood; ``notes`` of the result say how the rest was read.
    """
    return _parse(text, layout, seed, presets or {}, dict(placeholders or {}))


def _parse(
    text: str, layout: Layout, seed: int, presets: Mapping[str, str], placeholders: dict[str, float], depth: int = 0
) -> BlockWeights:
    text = text.strip()
    if len(text) > grammar.MAX_LENGTH:
        raise BlockTextError(f"This text is {len(text)} characters long; block weights are one line.")
    name = _find_name(text, presets)
    if name is not None:
        weights = _parse(presets[name], layout, seed, {}, placeholders)
        return replace(weights, notes=(f"Preset {name}.", *weights.notes))
    if (wrapped := _wrapped(text, seed)) is not None:
        if depth == MAX_WRAPPED:
            raise BlockTextError(f"{text[:80]!r} is wrapped more than {MAX_WRAPPED} times.")
        inner, seed, invert = wrapped
        weights = _parse(inner, layout, seed, presets, placeholders, depth + 1)
        return weights.invert() if invert else weights
    if text.startswith("{"):
        weights = legacy.parse_dictionary(text, layout)
    elif text.startswith("%"):
        weights = legacy.parse_percent_spec(text, layout)
    elif legacy.looks_like_lbw(text):
        return legacy.parse_lbw(text, lambda value, x: _parse(value, layout, seed, presets, {**placeholders, **x}))
    elif settings := legacy.split_settings(text):
        value, own = settings
        return _parse(value, layout, seed, presets, {**placeholders, **own})
    elif _labelled(text):
        label, _, vector = text.partition(":")
        dialect = vectors.INSPIRE if _INSPIRE_NAME.match(label) else None
        weights = vectors.parse_vector(vector, layout, seed, placeholders, dialect)
        weights = replace(weights, notes=(f"{label.strip()!r} is only this vector's name.", *weights.notes))
    elif vectors.looks_like_vector(text):
        weights = vectors.parse_vector(text, layout, seed, placeholders)
    else:
        if text and "=" not in text:
            raise _no_preset(text, layout, presets)
        weights = grammar.parse_rules(text)
    return replace(weights, notes=(*weights.notes, *grammar.check_names(weights, layout)))


_WRAPPER = re.compile(r"(?:invert|(seed))[ \t]*\(", re.IGNORECASE)
_SEED = re.compile(r"\s*(-?[0-9]{1,20})\s*,")


def invert_text(text: str) -> str:
    """A text that means 1 minus each weight of another one, whatever model reads it."""
    return f"invert({text})"


def seed_text(seed: int, text: str) -> str:
    """A text whose random entries are drawn with this seed, whatever seed it is read with."""
    return f"seed({seed}, {text})"


def _wrapped(text: str, seed: int | None) -> tuple[str, int | None, bool] | None:
    """(the text inside, the seed for it, whether to invert it) of ``invert(...)`` and ``seed(5, ...)``; None for anything else."""
    match = _WRAPPER.match(text)
    if match is None or "=" in text[: match.end()]:
        return None
    if not text.endswith(")"):
        raise BlockTextError(f"{text[:80]!r}: the bracket behind {match[0].rstrip('( ')} is not closed at the end.")
    inner = text[match.end() : -1]
    if match[1] is None:
        return inner, seed, True
    number = _SEED.match(inner)
    if number is None:
        raise BlockTextError(f"{text[:80]!r}: write seed(5, 1,R,R,...) with a whole number first.")
    return inner[number.end() :], int(number[1]), False


def begins_a_call(text: str) -> bool:
    """Whether a text begins as ``invert(...)``, ``seed(...)``, ``even(...)`` or ``odd(...)`` do."""
    return bool(_WRAPPER.match(text) or selector.PARITY.match(text))


def preset_name(text: str) -> str:
    """What may be a preset's name in a text of any form: ``MIDD``, ``lbw=MIDD``, ``invert(MIDD)``; empty where rules or numbers stand.
    Raises BlockTextError.
    """
    name = innermost(text)[0]
    return "" if "=" in name or vectors.looks_like_vector(name) else name


def is_random(text: str, presets: Mapping[str, str]) -> bool:
    """Whether a seed decides what a text of any form means: it is a vector with an R or U, or names one of ``presets`` that is, and says no
    seed of its own. False for what cannot be read."""
    try:
        inner, seeded = innermost(text)
        name = _find_name(inner, presets)
        if name is not None:
            inner, within = innermost(presets[name])
            seeded |= within
    except BlockTextError:
        return False
    entries = [entry.strip().upper() for entry in inner.split(",")]
    return not seeded and len(entries) > 1 and bool({"R", "U"} & set(entries))


def innermost(text: str) -> tuple[str, bool]:
    """(the name, vector or rules that a text of any form is about, whether a seed is written around it). Raises BlockTextError."""
    seeded = False
    # Wrappers stand around lbw= and inside of it; a tag has an lbw= of its own.
    for _ in range(2 * MAX_WRAPPED + 2):
        text = text.strip()
        if (wrapped := _wrapped(text, None)) is not None:
            text, seed, _ = wrapped
            seeded |= seed is not None
        elif legacy.looks_like_lbw(text):
            text = _value_of_lbw(text)
        else:
            break
    value = text.partition(";")[0].strip()
    if "=" in value:
        return text, seeded
    return value.partition(":")[2].strip() if _labelled(value) else value, seeded


def _value_of_lbw(text: str) -> str:
    found: list[str] = []
    legacy.parse_lbw(text, lambda value, placeholders: found.append(value) or BlockWeights())
    return found[0]


def _labelled(text: str) -> bool:
    """A line of a preset file: ``NAME:1,0,...``."""
    label, separator, vector = text.partition(":")
    return bool(separator and label.strip()) and "," not in label and vectors.looks_like_vector(vector)


def _find_name(text: str, presets: Mapping[str, str]) -> str | None:
    if text in presets:
        return text
    return next((name for name in presets if name.lower() == text.lower()), None) if text else None


def _no_preset(text: str, layout: Layout, presets: Mapping[str, str]) -> BlockTextError:
    near = difflib.get_close_matches(text.upper(), [name.upper() for name in presets], 3, 0.5) if len(text) < 80 else []
    near = [name for name in presets if name.upper() in near]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    instead = f"{hint} Write names and weights, such as default=0.5, or one vector."
    return BlockTextError(
        f"{text[:80]!r} is no preset of {layout.title}.{instead} Blocks here: {grammar.describe(layout)}.",
        f"{text[:80]!r} is no preset of any model.{instead}",
    )
