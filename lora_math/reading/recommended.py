"""The strength that a LoRA's author or owner recommends, from its header and from the sidecar files that other tools leave beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..numbers import finite
from .trigger_words import as_dict, read_json, read_json_text

LIMIT = 100.0


@dataclass(frozen=True)
class Recommended:
    """A strength, and between which two it was found to work; None where nothing says so."""

    strength: float | None = None
    low: float | None = None
    high: float | None = None

    def __bool__(self) -> bool:
        return self != Recommended()


def recommended(path: str, metadata: Mapping[str, str]) -> Recommended:
    """For the LoRA at ``path``: what its owner set first, then what its author wrote. Unreadable sources count as silent."""
    stem = os.path.splitext(path)[0]
    found: list[float | None] = [None, None, None]
    for values in _sources(path, stem, metadata):
        found = [old if old is not None else _number(new) for old, new in zip(found, values, strict=True)]
    strength, low, high = found
    if low is not None and high is not None and low > high:
        low, high = high, low
    return Recommended(strength, low, high)


def _sources(path: str, stem: str, metadata: Mapping[str, str]) -> Iterator[tuple]:
    """(strength, low, high) of each source."""
    # A1111's user metadata, whose 0 means that nothing is set.
    weight = as_dict(read_json(stem + ".json")).get("preferred weight")
    yield weight if _number(weight) else None, None, None
    # Of Lora Manager.
    tips = as_dict(read_json_text(as_dict(read_json(stem + ".metadata.json")).get("usage_tips")))
    yield tips.get("strength"), tips.get("strength_min"), tips.get("strength_max")
    info = as_dict(read_json(path + ".rgthree-info.json"))
    yield None, info.get("strengthMin"), info.get("strengthMax")
    yield metadata.get("modelspec.lora_default_weight"), None, None


def _number(value) -> float | None:
    number = finite(value)
    return number if number is not None and abs(number) <= LIMIT else None
