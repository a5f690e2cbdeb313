"""The strength over time of a ``<lora:...>`` tag, in each of the ways in which programs write one:

at=0@0%, 1@50%             this pack: whatever ``schedule.parse`` reads
start=5  stop=0.8          sd-webui-lora-block-weight: on from a step on, off from another one on; below 1 a part of the sampling
step=5-10                  the same for both
0@0,1@0.5                  sd-webui-loractl: a list where the strength stands
"""

from __future__ import annotations

from collections.abc import Mapping

from . import schedule
from .errors import StrataError
from .numbers import is_number
from .schedule import Schedule

KEYS = ("at", "start", "stop", "step")
MOST_STEPS = 1e6


def read_time(keyed: Mapping[str, str], listed: Schedule | None, most: float) -> str | None:
    """As ``schedule.canonical`` writes it, None for constant. keyed: a tag's fields by key; listed: the list where its strength stands.

    most: the largest strength that a tag may have. Raises StrataError.
    """
    said = [f"{key}=" for key in KEYS if key in keyed] + ([] if listed is None else ["strength@place"])
    if not said:
        return None
    if len(said) > 1 and set(said) != {"start=", "stop="}:
        raise StrataError(f"A strength over time stands here twice: {' and '.join(said)}.")
    if listed is not None:
        return str(listed)
    if "at" in keyed:
        within(schedule.parse(keyed["at"]), most)
        return schedule.canonical(keyed["at"])
    start, stop = keyed.get("start", "0"), keyed.get("stop")
    if "step" in keyed:
        start, dash, stop = (part.strip() for part in keyed["step"].partition("-"))
        if not (start and dash and stop):
            raise StrataError("step= takes the first step and the one where it ends, such as step=5-10.")
    found = schedule.between(_place(start), None if stop is None else _place(stop))
    return None if found.is_constant else str(found)


def within(found: Schedule, most: float) -> Schedule:
    """The same. Raises StrataError where a strength is beyond ``most``."""
    if found.furthest > most:
        raise StrataError(f"{found.furthest:g} is no strength. Strengths go from {-most:g} to {most:g}.")
    return found


def _place(text: str) -> float:
    value = float(text) if is_number(text) else -1.0
    if not 0 <= value <= MOST_STEPS or (value >= 1 and value != int(value)):
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise StrataError(f"'{shown}' is no step: write a whole number, or a part of the sampling between 0 and 1.")
    return value
