"""A strength over the sampling: points, and what lies between them, as one line of text.

    0@0, 1@0.5, 0@1             strength @ place, as sd-webui-loractl writes it; a place from 0 to 1 is a part of the sampling
    1@0%, 0@50%                 the same places in percent
    0@0s, 1@4s                  places in steps, counted from 0
    1@14.6sigma, 0@2sigma       places in noise
    smooth: 0@0, 1@1            linear (as above), smooth or hold: hold keeps a point's strength until the next one
    hold: 1@0s, 0@5s, again@15s in steps or percent: from there on all begins again, for as long as the sampling lasts
    fade in                     one of ``PRESETS`` by its name

Before the first point its strength holds, after the last one its own. Two points at one place are a jump. The strength multiplies that of
the LoRA.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import StrataError
from .extremes import FURTHEST

Unit = Literal["percent", "step", "sigma"]
# Parts of a step or of the whole sampling that turns are counted in.
TURNS = 10**9
Shape = Literal["linear", "smooth", "hold"]
SHAPES: tuple[Shape, ...] = ("linear", "smooth", "hold")
SUFFIXES: Mapping[str, Unit] = {"%": "percent", "s": "step", "sigma": "sigma"}
# In place of the last point's strength: all points come again from there on.
AGAIN = "again"
# The most points that a person or a node writes.
MAX_POINTS = 1000
MAX_TEXT = 20_000

PRESETS: Mapping[str, str] = {
    "fade in": "0@0%, 1@100%",
    "fade out": "1@0%, 0@100%",
    "first third": "hold: 1@0%, 0@33.3%",
    "last third": "hold: 0@0%, 1@66.7%",
    "pulse": "smooth: 0@0%, 1@50%, 0@100%",
}


@dataclass(frozen=True)
class Place:
    """Where a sampling is. percent: 0 to 1, as ComfyUI counts it (by the noise, not by the steps); step: from 0, a fraction within a
    step; sigma: the noise."""

    percent: float
    step: float
    sigma: float


@dataclass(frozen=True)
class Moment:
    """One place of a sampling, in one unit; a percent as a fraction of 1."""

    place: float
    unit: Unit

    def __str__(self) -> str:
        suffix = next(suffix for suffix, unit in SUFFIXES.items() if unit == self.unit)
        return _number(_place(self.place, self.unit)) + suffix


@dataclass(frozen=True)
class Schedule:
    """points: (place, strength) in the order of the sampling, at least one; places in ``unit``, a percent as a fraction of 1. again: the
    place behind all points from which on they come again and again; None where they come once."""

    points: tuple[tuple[float, float], ...]
    unit: Unit = "percent"
    shape: Shape = "linear"
    again: float | None = None

    def __post_init__(self):
        if not 1 <= len(self.points) <= MAX_POINTS:
            raise StrataError(f"A strength over time has 1 to {MAX_POINTS} points, not {len(self.points)}.")
        for place, strength in self.points:
            if not (math.isfinite(place) and place >= 0 and abs(strength) <= FURTHEST):
                raise StrataError(f"{strength:g}@{place:g} is no point of a strength over time: give it plain numbers.")
        places = [self._time(place) for place, _ in self.points]
        if places != sorted(places):
            order = "from much noise to little" if self.unit == "sigma" else "from the beginning of the sampling on"
            raise StrataError(f"The points of a strength over time stand in order, {order}: {_shown(str(self))}")
        if self.again is None:
            return
        if self.unit == "sigma":
            raise StrataError(f"Noise never comes again: let {AGAIN} count in steps or percent, not in sigma.")
        if not (math.isfinite(self.again) and self.again > self.points[-1][0]):
            raise StrataError(f"{AGAIN} stands behind all points of a strength over time: {_shown(str(self))}")

    def at(self, place: Place) -> float:
        """The strength there."""
        times = [self._time(at) for at, _ in self.points]
        now = self._time(getattr(place, self.unit))
        if self.again is not None:
            # In whole numbers: of fractions, 0.15 % 0.1 is a little less than 0.05, where the next point already stands.
            now = round(now * TURNS) % max(round(self.again * TURNS), 1) / TURNS
        after = bisect_right(times, now)
        if after == 0:
            return self.points[0][1]
        before = self.points[after - 1][1]
        if after == len(times) or self.shape == "hold":
            return before
        share = (now - times[after - 1]) / (times[after] - times[after - 1])
        if self.shape == "smooth":
            share = share * share * (3 - 2 * share)
        return before + share * (self.points[after][1] - before)

    def at_moment(self, moment: Moment) -> float:
        """The strength there. Raises StrataError where the two count in different units: only a sampler knows which step is which noise."""
        if self.is_constant:
            return self.points[0][1]
        if moment.unit != self.unit:
            example = {"percent": "50%", "step": "4s", "sigma": "2sigma"}[self.unit]
            raise StrataError(
                f"the strength over time counts otherwise ({_shown(str(self))}): choose a moment like {example}"
            )
        return self.at(Place(moment.place, moment.place, moment.place))

    @property
    def furthest(self) -> float:
        """The largest absolute strength that it ever has."""
        return max(abs(strength) for _, strength in self.points)

    @property
    def is_constant(self) -> bool:
        return len({strength for _, strength in self.points}) == 1

    @property
    def unreached(self) -> list[str]:
        """The points, as they are written, beyond the end of every sampling."""
        return [str(Schedule((point,), self.unit)) for point in self.points if self.unit == "percent" and point[0] > 1]

    @property
    def written(self) -> list[tuple[float, float]]:
        """(place, strength) as a text has them: a percent as a number from 0 to 100."""
        return [(_place(at, self.unit), strength) for at, strength in self.points]

    @property
    def written_again(self) -> float | None:
        return None if self.again is None else _place(self.again, self.unit)

    def __str__(self) -> str:
        """As ``parse`` reads it back, exactly."""
        suffix = next(suffix for suffix, unit in SUFFIXES.items() if unit == self.unit)
        points = [f"{_number(strength)}@{_number(at)}{suffix}" for at, strength in self.written]
        points += [] if self.again is None else [f"{AGAIN}@{_number(self.written_again)}{suffix}"]
        return ("" if self.shape == "linear" else f"{self.shape}: ") + ", ".join(points)

    def _time(self, place: float) -> float:
        """Grows with the sampling."""
        return -place if self.unit == "sigma" else place


@dataclass(frozen=True)
class Variation:
    """How the strength of a LoRA varies while a model samples: the value of a LORA_SCHEDULE wire.

    time: over the sampling, None for constant: a Schedule, or what another program has for one; positive, negative: what that is
    multiplied by for the two prompts.
    """

    time: Schedule | object | None = None
    positive: float = 1.0
    negative: float = 1.0

    def __post_init__(self):
        for name in ("positive", "negative"):
            if not abs(getattr(self, name)) <= FURTHEST:
                raise StrataError(f"{name} is {getattr(self, name):g}: give it a number from -100 to 100.")

    @property
    def constant(self) -> float | None:
        """What a strength is multiplied by where it does not vary at all, else None."""
        if self.positive != self.negative:
            return None
        if self.time is None:
            return self.positive
        is_constant = isinstance(self.time, Schedule) and self.time.is_constant
        return self.positive * self.time.points[0][1] if is_constant else None

    def __str__(self) -> str:
        over_time = (
            "constant" if self.time is None else str(self.time) if isinstance(self.time, Schedule) else "keyframes"
        )
        if self.positive == self.negative == 1:
            return over_time
        return f"{over_time}, x {_number(self.positive)} on the positive and x {_number(self.negative)} on the negative prompt"


def parse(text: str) -> Schedule:
    """Raises StrataError, which shows the part of the text that is wrong."""
    if len(text) > MAX_TEXT:
        raise StrataError(f"This strength over time is {len(text)} characters long, more than {MAX_TEXT}.")
    text = " ".join(text.split())
    if text.lower() in PRESETS:
        text = PRESETS[text.lower()]
    shape: Shape = "linear"
    for name in SHAPES:
        word = text[: len(name)].lower()
        if word == name and text[len(name) : len(name) + 1] in (":", " "):
            shape, text = name, text[len(name) :].lstrip(": ")
    pieces = [piece.strip() for piece in text.replace(";", ",").split(",") if piece.strip()]
    if not pieces:
        raise StrataError(
            "A strength over time is empty: write it like 0@0, 1@0.5, 0@1, or one of " + ", ".join(PRESETS)
        )
    if len(pieces) == 1 and "@" not in pieces[0]:
        return Schedule(((0.0, _read(pieces[0], pieces[0])),), "percent", shape)
    return _of_points([_point(piece) for piece in pieces], shape)


def parse_moment(text: str) -> Moment:
    """50%, 4s or 2sigma. Raises StrataError."""
    place, unit = _with_unit(text.strip())
    try:
        number = math.nan if unit is None or "_" in place else float(place)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0) or (unit == "percent" and number > 100):
        raise StrataError(f"{_shown(text)} is no moment of a sampling: write it like 50%, 4s or 2sigma.")
    return Moment(number / 100 if unit == "percent" else number, unit)


def _with_unit(text: str) -> tuple[str, Unit | None]:
    """(the number's text, its unit where it is written)."""
    for suffix in ("sigma", "%", "s"):
        if text.endswith(suffix):
            return text[: -len(suffix)].strip(), SUFFIXES[suffix]
    return text, None


def _point(piece: str) -> tuple[float, float, Unit | None, str]:
    """(place, strength or NaN for again, its unit where it is written, the text)."""
    strength, at, place = piece.partition("@")
    if not at:
        raise StrataError(f"{_shown(piece)} says no place: write strength@place, like 0.8@50%.")
    place, unit = _with_unit(place.strip())
    where, strength = _read(place, piece), strength.strip()
    is_again = strength.lower() == AGAIN
    return (where / 100 if unit == "percent" else where), math.nan if is_again else _read(strength, piece), unit, piece


def _of_points(found: list[tuple[float, float, Unit | None, str]], shape: Shape) -> Schedule:
    units = {unit for *_, unit, _ in found if unit is not None}
    if len(units) > 1:
        raise StrataError(
            "A strength over time counts in one unit: percent, steps (4s) or noise (2sigma), not in several."
        )
    bare = [(place, text) for place, _, unit, text in found if unit is None and place != 0]
    if units and bare and not (units == {"percent"} and all(place <= 1 for place, _ in bare)):
        raise StrataError(f"{_shown(bare[0][1])} says no unit, other points do: write it as 50%, 4s or 2sigma.")
    unit = units.pop() if units else "percent"
    # In loractl numbers beyond 1 are steps.
    if bare and max(place for place, _ in bare) > 1:
        unclear = [text for place, text in bare if place <= 1]
        if unclear:
            raise StrataError(
                f"{_shown(unclear[0])} could be a part of the sampling or a step, as others here are steps: write 50% or 1s."
            )
        unit = "step"
    *points, last = [(place, strength) for place, strength, *_ in found]
    again = None
    if math.isnan(last[1]):
        again = last[0]
    else:
        points.append(last)
    misplaced = next((text for _, strength, _, text in found[:-1] if math.isnan(strength)), None)
    if misplaced is not None or not points:
        raise StrataError(f"{_shown(misplaced or found[0][3])} is no point: {AGAIN} stands once, behind all points.")
    return Schedule(tuple(points), unit, shape, again)


def canonical(text: str) -> str:
    """The same strength over time as it is always written: a preset by its name, anything else as its points. Raises StrataError."""
    name = " ".join(text.split()).lower()
    return name if name in PRESETS else str(parse(text))


def between(start: float = 0.0, stop: float | None = None) -> Schedule:
    """On from ``start`` and off from ``stop`` on, None for never. A number between 0 and 1 is a part of the sampling, any other one a
    step, counted from 0. Raises StrataError."""
    places = [place for place in (start, stop) if place is not None]
    units = {"percent" if place < 1 else "step" for place in places if place != 0}
    if len(units) > 1:
        raise StrataError("One of start and stop is a part of the sampling, the other one a step: write both alike.")
    if stop is not None and not start < stop:
        raise StrataError(f"It stops at {stop:g} and starts at {start:g}: it would never act.")
    points = [(0.0, 0.0), (start, 1.0)] if start > 0 else [(0.0, 1.0)]
    points += [] if stop is None else [(stop, 0.0)]
    return Schedule(tuple(points), "step" if units == {"step"} else "percent", "hold")


def of_steps(strengths: Iterable[float]) -> Schedule:
    """A strength for each step from the first on; the last one holds. Raises StrataError."""
    return Schedule(tuple((float(step), strength) for step, strength in enumerate(strengths)), "step", "hold")


def _read(text: str, shown: str) -> float:
    try:
        number = math.nan if "_" in text else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise StrataError(
            f"{_shown(shown)} is no point of a strength over time: write it like 0.8@50%, 1@4s or 1@2sigma."
        )
    return number


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _place(value: float, unit: Unit) -> float:
    """A place as it is written; a percent so that dividing by 100 gives the very number again."""
    if unit != "percent":
        return value
    for candidate in (
        round(value * 100, 6),
        value * 100,
        math.nextafter(value * 100, 0),
        math.nextafter(value * 100, 1e9),
    ):
        if candidate / 100 == value:
            return candidate
    return value * 100
