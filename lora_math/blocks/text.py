"""Any text that means block weights -> a value: the grammar, a preset's name, or one of the forms of other
programs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace

from . import grammar, legacy, vectors
from .errors import BlockTextError
from .layout import Layout
from .weights import BlockWeights

_INSPIRE_NAME = re.compile(r"\s*(SD|SDXL|FLUX)-")  # how its own presets are named


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
    text: str, layout: Layout, seed: int, presets: Mapping[str, str], placeholders: dict[str, float]
) -> BlockWeights:
    text = text.strip()
    if len(text) > grammar.MAX_LENGTH:
        raise BlockTextError(f"This text is {len(text)} characters long; block weights are one line.")
    name = _find_name(text, presets)
    if name is not None:
        weights = _parse(presets[name], layout, seed, {}, placeholders)
        return replace(weights, notes=(f"Preset {name}.", *weights.notes))
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
            raise BlockTextError(_no_preset(text, layout, presets))
        weights = grammar.parse_rules(text)
    return replace(weights, notes=(*weights.notes, *grammar.check_names(weights, layout)))


def _labelled(text: str) -> bool:
    """A line of a preset file: ``NAME:1,0,...``."""
    label, separator, vector = text.partition(":")
    return bool(separator and label.strip()) and "," not in label and vectors.looks_like_vector(vector)


def _find_name(text: str, presets: Mapping[str, str]) -> str | None:
    if text in presets:
        return text
    return next((name for name in presets if name.lower() == text.lower()), None) if text else None


def _no_preset(text: str, layout: Layout, presets: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(text.upper(), [name.upper() for name in presets], 3, 0.5) if len(text) < 80 else []
    near = [name for name in presets if name.upper() in near]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"{text[:80]!r} is no preset of {layout.title}.{hint} Write names and weights, such as default=0.5, "
        f"or one vector. Blocks here: {grammar.describe(layout)}."
    )
