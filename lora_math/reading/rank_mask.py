"""How many rank columns of a T-LoRA act when: what its trainer was told, where the header repeats it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

# The most characters.
MAX_ARGS = 100_000
_LEAST = ("tlora_min_rank", "min_rank")
_EXPONENT = ("tlora_alpha", "tlora_alpha_rank_scale", "alpha_rank_scale")


class RankMask(NamedTuple):
    """least: rank columns at the most noise; exponent: of how fast the others come; stated: whether the file says so."""

    least: int = 1
    exponent: float = 1.0
    stated: bool = False


def rank_mask(metadata: Mapping[str, str]) -> RankMask:
    """What the header says, in kohya's ``ss_network_args`` or by itself; else what the trainers take by default."""
    text = metadata.get("ss_network_args", "")
    try:
        args = json.loads(text) if len(text) <= MAX_ARGS else None
    except (ValueError, RecursionError):
        args = None
    said = {**metadata, **(args if isinstance(args, dict) else {})}
    least, exponent = _number(said, _LEAST), _number(said, _EXPONENT)
    return RankMask(
        1 if least is None else int(least), 1.0 if exponent is None else exponent, (least, exponent) != (None, None)
    )


def _number(said: Mapping[str, object], names: tuple[str, ...]) -> float | None:
    """The first of these that is a number from 0 to a thousand."""
    for name in names:
        try:
            number = float(str(said.get(name, ""))[:40])
        except ValueError:
            continue
        if math.isfinite(number) and 0 <= number <= 1000:
            return number
    return None
