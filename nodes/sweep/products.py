"""What a finished sweep hands on: sheets of pictures and of differences, a curve, tables, and what the page is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy
from torch import Tensor

from ...lora_math.tags import LoraTag, format_tag
from ..comfy.pictures import as_images, loaded
from ..inspecting.draw import image_of
from ..lora_stack import used_text
from . import curve, grid
from .axes import Axis
from .energies import Blocks
from .measure import difference_map, heat
from .plan import CELL, NOTHING, STRENGTH_ZERO, Cell, Plan
from .run import Outcome
from .table import Line


@dataclass(frozen=True)
class Finished:
    """A sweep's plan and what became of its cells, by number in ``Plan.cells``. against: what they are compared with, in words."""

    plan: Plan
    outcomes: Mapping[int, Outcome]
    against: str
    theme: str
    cell_size: int

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.plan.axes

    def picture(self, number: int) -> numpy.ndarray:
        """A cell's batch side by side: [height, width, 3]."""
        return grid.side_by_side(loaded(self.outcomes[number].files))


def against_words(compare: str, chosen: int) -> str:
    return {STRENGTH_ZERO: "strength 0", NOTHING: "", CELL: f"cell {chosen}"}.get(
        compare, "the same without the change"
    )


def grid_sheets(done: Finished) -> list:
    """Of the pictures: x across, y down, a sheet for each value of z."""
    return _sheets(done, lambda number: lambda: done.picture(number), None)


def difference_sheets(done: Finished) -> list:
    """Maps of the difference, all on one scale: from nothing to the largest of all cells. Empty where nothing was compared."""
    found = [done.outcomes[number].difference for number, _ in enumerate(done.plan.shown)]
    most = max((each.most for each in found if each is not None), default=None)
    if most is None:
        return []

    def map_of(number: int) -> Callable[[], numpy.ndarray]:
        base = done.plan.cells[number].base

        def drawn() -> numpy.ndarray:
            return heat(difference_map(done.picture(number)[None], done.picture(base)[None])[0], most)

        return drawn if done.outcomes[number].difference is not None else None

    scale = grid.Scale(most, lambda line: heat(line, 1.0), f"difference from {done.against}, the same scale everywhere")
    return _sheets(done, map_of, scale)


def _sheets(done: Finished, picture_of: Callable, scale: grid.Scale | None) -> list:
    sizes = [len(axis.values) for axis in done.axes] + [1, 1, 1]
    across, down, deep = sizes[:3]
    size = _cell_size(done)
    names = [axis.name for axis in done.axes]
    found = []
    for z in range(deep):
        rows = []
        for y in range(down):
            numbers = [(z * down + y) * across + x for x in range(across)]
            rows.append([_place(done, number, picture_of) for number in numbers])
        title = [f"{names[2]}: {done.axes[2].labels[z]}"] if len(names) > 2 else []
        if names:
            title.append(f"{names[0]} across" + (f", {names[1]} down" if len(names) > 1 else ""))
        sheet = grid.Sheet(
            rows,
            done.axes[1].labels if len(names) > 1 else [""],
            done.axes[0].labels if names else [""],
            "; ".join(title),
            scale=scale,
        )
        found += list(grid.draw(sheet, size, done.theme))
    return found


def _place(done: Finished, number: int, picture_of: Callable) -> grid.Cell:
    outcome = done.outcomes[number]
    if outcome.error:
        return grid.Cell(None, outcome.error)
    drawn = picture_of(number)
    return grid.Cell(drawn, "" if drawn else "Nothing to compare with.")


def _cell_size(done: Finished) -> tuple[int, int]:
    """(width, height) of a place: the picture's own, made smaller where it is larger than asked for."""
    number = next(n for n, _ in enumerate(done.plan.cells) if done.outcomes[n].files)
    height, width = done.picture(number).shape[:2]
    scale = min(1.0, done.cell_size / max(width, height)) if done.cell_size else 1.0
    return max(16, round(width * scale)), max(16, round(height * scale))


def batch(done: Finished) -> Tensor:
    """[count, height, width, 3] of every picture that there is, in reading order, from 0 to 1."""
    files = [done.outcomes[number].files for number, _ in enumerate(done.plan.shown)]
    return as_images([each for each in files if each])


def curve_picture(done: Finished) -> tuple[Tensor, str]:
    """(IMAGE, where it flattens in words or ""). Along the first axis of numbers, else along the first; a line for each of the others."""
    axis, series = curve_series(done)
    drawn = image_of(curve.curve(axis, series, done.against), done.theme)
    return drawn, curve.hint(axis, series[0]) if axis is not None and len(series) == 1 else ""


def curve_series(done: Finished) -> tuple[Axis | None, list[curve.Series]]:
    measured = [(cell, done.outcomes[number].difference) for number, cell in enumerate(done.plan.shown)]
    if not done.axes or all(found is None for _, found in measured):
        return None, []
    along = next((at for at, axis in enumerate(done.axes) if axis.is_numeric), 0)
    lines: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    for cell, found in measured:
        others = tuple(place for at, place in enumerate(cell.at) if at != along)
        if found is not None:
            lines.setdefault(others, []).append((cell.at[along], found.rms))
    other_axes = [axis for at, axis in enumerate(done.axes) if at != along]
    return done.axes[along], [
        curve.Series(
            ", ".join(axis.labels[place] for axis, place in zip(other_axes, others, strict=True)), tuple(points)
        )
        for others, points in lines.items()
    ]


def table_lines(done: Finished, blocks: Blocks | None) -> list[Line]:
    found = []
    for number, cell in enumerate(done.plan.shown):
        outcome = done.outcomes[number]
        values = tuple(axis.values[place] for axis, place in zip(done.axes, cell.at, strict=True))
        energies = blocks.together(cell.settings.acting) if blocks is not None and not outcome.error else {}
        name = outcome.files[0].name if outcome.files else ""
        tags = used_text(cell.settings.acting)
        line = Line(number + 1, values, tags, cell.settings.seed, name, outcome.difference, energies, outcome.error)
        found.append(line)
    return found


def told_of_axes(plan: Plan) -> list[dict]:
    """For the page."""
    return [{"name": axis.name, "kind": axis.kind, "labels": list(axis.labels)} for axis in plan.axes]


def told_of_cell(cell: Cell, outcome: Outcome) -> dict:
    """For the page: where it stands, its files, and the settings that a click copies."""
    settings = cell.settings
    found = outcome.difference
    return {
        "index": cell.index,
        "at": list(cell.at),
        "files": [saved.shown for saved in outcome.files],
        "error": outcome.error,
        "difference": None if found is None else found.rms,
        "tags": used_text(settings.acting),
        "rows": told_of_rows(settings),
        "seed": settings.seed,
        "steps": settings.steps,
        "cfg": settings.cfg,
        "positive": settings.positive,
        "negative": settings.negative,
    }


def told_of_rows(settings) -> list[dict]:
    """For the page: each LoRA of a stack, as its loader holds it and as a tag."""
    return [_row(row) for row in settings.rows]


def _row(row) -> dict:
    time = row.keyframes if isinstance(row.keyframes, str) else None
    blocks = None if row.block_weights is None else row.block_weights.text
    tag = format_tag(LoraTag(os.path.splitext(row[0].replace("\\", "/"))[0], row[1], row[2], blocks, time=time))
    return {"name": row[0], "model": row[1], "clip": row[2], "blocks": blocks, "time": time, "tag": tag}


def report_lines(done: Finished, counts, verdicts: Sequence[str], knee: str) -> list[str]:
    """What was done, and what a person may want to look at first."""
    shown = [done.outcomes[number] for number, _ in enumerate(done.plan.shown)]
    failed = [outcome for outcome in shown if outcome.error]
    lines = [
        f"{len(shown)} cells: {counts.drawn} drawn, {counts.reused} were there already"
        + (f", {len(failed)} failed" if failed else "")
    ]
    extra = len(done.plan.cells) - len(shown)
    if extra:
        lines.append(f"{extra} more for comparison with {done.against}, which no cell is")
    if counts.drawn:
        lines.append(f"LoRAs were applied {counts.applied} times and prompts encoded {counts.encoded} times")
    if knee:
        lines.append(f"The difference grows less from {knee} on: a hint where to look, not an answer")
    lines += [f"Failed: {text}" for text in dict.fromkeys(outcome.error for outcome in failed)]
    return [*lines, *verdicts]
