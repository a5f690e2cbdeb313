"""Difference over an axis as a picture: a line for numbers, with its knee as a hint, or a bar for each name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...lora_math.numbers import show_number
from ..inspecting.shapes import SERIES, Picture
from .axes import Axis
from .measure import knee

WIDTH, HEIGHT, BAR = 720, 300, 22
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 66, 44
# The most lines that can still be told apart.
MOST_LINES = 12


@dataclass(frozen=True)
class Series:
    """What one line or one group of bars shows: its name, and (place on the axis, RMS difference) of each cell that has a picture."""

    name: str
    points: tuple[tuple[int, float], ...]


def curve(axis: Axis | None, series: Sequence[Series], against: str) -> Picture:
    """axis: what goes along, None where nothing was compared. against: what the cells are compared with, in words."""
    drawn = [each for each in series if each.points][:MOST_LINES]
    if axis is None or not drawn:
        return _nothing("No differences: nothing was compared.")
    most = max(value for each in drawn for _, value in each.points) or 1.0
    title = f"Difference from {against} (RMS of colours, 0 to 1)"
    if axis.is_numeric:
        found = _lines(axis, drawn, most)
    else:
        found = _bars(axis, drawn, most)
    found.text(LEFT - 40, 24, title, size=13, room=WIDTH - 40)
    left = len([each for each in series if each.points]) - len(drawn)
    _legend(found, drawn, f"and {left} more" if left else "")
    found.said = f"{title}, over {axis.name}"
    return found


def hint(axis: Axis, series: Series) -> str:
    """The knee in words; empty where there is none, or where it would say nothing."""
    if not axis.is_numeric:
        return ""
    places, values, _ = _ascending(axis, series)
    at = knee(places, values)
    return "" if at is None else f"{axis.name} {show_number(places[at])}"


def _ascending(axis: Axis, series: Series) -> tuple[list[float], list[float], list[int]]:
    ordered = sorted((float(axis.values[place]), value, place) for place, value in series.points)
    return [x for x, _, _ in ordered], [y for _, y, _ in ordered], [place for _, _, place in ordered]


def _nothing(text: str) -> Picture:
    found = Picture(WIDTH, 60, said=text)
    found.text(20, 34, text, role="dim")
    return found


def _lines(axis: Axis, series: Sequence[Series], most: float) -> Picture:
    found = Picture(WIDTH, HEIGHT)
    every = [x for each in series for x in _ascending(axis, each)[0]]
    low, high = min(every), max(every)
    span = (high - low) or 1.0

    def x_of(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((value - low) / span if high > low else 0.5)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most

    for share in (0, 0.5, 1):
        y = y_of(share * most)
        found.line([(LEFT, y), (WIDTH - RIGHT, y)], "faint")
        found.text(LEFT - 8, y + 4, f"{share * most:.3g}", role="dim", size=11, anchor="end")
    taken = -1e9
    for value in sorted(set(every)):
        text = show_number(value)
        if x_of(value) - taken > 8 * len(text) + 10:
            found.text(x_of(value), HEIGHT - BOTTOM + 18, text, role="dim", size=11, anchor="middle")
            taken = x_of(value)
    found.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, axis.name, role="dim", size=11, anchor="middle")
    told: set[float] = set()
    for number, each in enumerate(series):
        role = f"series{number % SERIES}"
        places, values, _ = _ascending(axis, each)
        points = [(x_of(x), y_of(y)) for x, y in zip(places, values, strict=True)]
        if len(points) > 1:
            found.line(points, role, width=2)
        for x, y in points:
            found.rect(x - 2.5, y - 2.5, 5, 5, role, radius=2.5)
        at = knee(places, values)
        if at is not None:
            x, y = points[at]
            found.line([(x, y), (x, HEIGHT - BOTTOM)], role)
            # Said once, where several lines bend at one place.
            if places[at] in told:
                continue
            told.add(places[at])
            text = f"flattens here: {show_number(places[at])}"
            found.text(x + 8, min(y + 16, HEIGHT - BOTTOM - 6), text, role="text", size=11, room=WIDTH - RIGHT - x)
    return found


def _bars(axis: Axis, series: Sequence[Series], most: float) -> Picture:
    rows = sorted({place for each in series for place, _ in each.points})
    bar = BAR / max(1, len(series)) if len(series) > 1 else BAR
    label = 190
    height = TOP + len(rows) * (BAR + 6) + 12
    found = Picture(WIDTH, height)
    for at, place in enumerate(rows):
        y = TOP + at * (BAR + 6)
        found.text(label - 8, y + BAR / 2 + 4, axis.labels[place], size=11, anchor="end", room=label - 20)
        for number, each in enumerate(series):
            value = dict(each.points).get(place)
            if value is None:
                continue
            wide = (WIDTH - label - RIGHT - 60) * value / most
            found.rect(label, y + number * bar, wide, max(1.0, bar - 1), f"series{number % SERIES}", radius=2)
            if len(series) == 1:
                found.text(label + wide + 6, y + BAR / 2 + 4, f"{value:.3g}", role="dim", size=11)
    return found


def _legend(found: Picture, series: Sequence[Series], more: str) -> None:
    if len(series) < 2:
        return
    x = LEFT - 40.0
    for number, each in enumerate(series):
        room = (WIDTH - 60) / len(series)
        found.rect(x, 38, 10, 10, f"series{number % SERIES}", radius=2)
        found.text(x + 15, 47, each.name, size=11, room=max(24.0, room - 22))
        x += room
    if more:
        found.text(WIDTH - RIGHT, 60, more, role="dim", size=11, anchor="end")
