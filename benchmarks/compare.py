"""Today's ratios beside those that are checked in, and which of them are worse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .results import table

# Column -> whether more of it is better. Ratios that say nothing of this pack stand in neither.
MORE = frozenset(
    (
        "ratio",
        "ComfyUI / Strata",
        "ComfyUI's loaders",
        "a new loader for each row",
        "chained Strata loaders",
        "core's loader",
        "reload",
    )
)
LESS = frozenset(
    (
        "Strata / floor",
        "first / second",
        "live / without",
        "step / without",
        "ten / one",
        "varies / constant",
        "both / neither",
        "two / one",
        "sweep, live",
        "sweep, patch",
    )
)

_RATIO = re.compile(r"(\d[\d.]*) \((\d[\d.]*) to (\d[\d.]*)\)$")
_MEASURED = re.compile(r"\d[\d.]*(e\+?\d+)? (ms|s|MB)\b")


class Case(NamedTuple):
    """Where a ratio stands. row: the cells of its row that name what was measured."""

    table: str
    row: tuple[str, ...]
    column: str


class Spread(NamedTuple):
    """The median of some rounds, their smallest and their largest value."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:g} ({self.low:g} to {self.high:g})"


def read(text: str) -> dict[Case, Spread]:
    """The ratios of a text of tables as ``results.table`` writes them, ComfyUI's own rows left out."""
    return dict(_ratios(text))


def _ratios(text: str) -> Iterator[tuple[Case, Spread]]:
    title, columns = "", None
    for line in text.splitlines():
        if line.startswith("## "):
            title, columns = line[3:].strip(), None
        if not line.startswith("| "):
            continue
        cells = [cell.strip() for cell in line[1:].rstrip()[:-1].split("|")]
        if columns is None:
            columns = cells
            continue
        row = tuple(cell for cell in cells if not _RATIO.search(cell) and not _MEASURED.match(cell))
        if any(cell.startswith("ComfyUI") for cell in row):
            continue
        for column, cell in zip(columns, cells, strict=True):
            if (found := _RATIO.search(cell)) and column in MORE | LESS:
                yield Case(title, row, column), Spread(*map(float, found.groups()))


def is_worse(column: str, before: Spread, today: Spread) -> bool:
    """Whether a ratio is worse than it was by more than all that its rounds differed by then. One round alone tells no such difference."""
    spread = before.high - before.low
    loss = before.median - today.median if column in MORE else today.median - before.median
    return spread > 0 and loss > spread


def compare(before: Mapping[Case, Spread], today: Mapping[Case, Spread]) -> str:
    """A table of both, for the ratios of today that were measured before, the worse ones marked."""
    rows, worse = [], 0
    for case, now in today.items():
        if case in before:
            then = before[case]
            mark = "WORSE" if is_worse(case.column, then, now) else "" if then.high > then.low else "one round then"
            worse += mark == "WORSE"
            better = "more" if case.column in MORE else "less"
            rows.append((case.table, ", ".join(filter(None, case.row)), case.column, better, then, now, mark))
    unknown = len(today) - len(rows)
    return table(
        "Today beside RESULTS.md",
        ("table", "case", "ratio", "better", "then", "today", ""),
        rows,
        f"{worse} of {len(rows)} are worse by more than the spread of their rounds then; {unknown} of today's are not in RESULTS.md.",
    )
