"""Pictures as labelled sheets: column labels above, row labels on the left, both wrapped; more sheets where one would be too large."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from ...lora_math.errors import StrataError
from ..inspecting.draw import text_length, write
from ..inspecting.shapes import printable
from ..inspecting.themes import THEMES

# Pixels of the longer side, and of a whole sheet: a viewer on a telephone still opens it.
MAX_SIDE, MAX_PIXELS = 8192, 36_000_000
MAX_LINES = 4
GAP = 4
Picture = NDArray[numpy.uint8]


@dataclass(frozen=True)
class Cell:
    """One place of a grid: ``picture`` gives [height, width, 3] when it is drawn, None for a place without one; ``words`` stand there
    instead."""

    picture: Callable[[], Picture] | None
    words: str = ""


@dataclass(frozen=True)
class Scale:
    """What the colours of a map mean: a bar from 0 to ``most``, drawn by ``colours`` of a line of values from 0 to 1."""

    most: float
    colours: Callable[[NDArray[numpy.float32]], Picture]
    text: str


@dataclass(frozen=True)
class Sheet:
    """cells: row by row. title: above all of it, may be empty. rows, columns: their labels; corner: what these are ("strength, across")."""

    cells: Sequence[Sequence[Cell]]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str = ""
    corner: str = ""
    scale: Scale | None = None


def draw(sheet: Sheet, size: tuple[int, int], theme: str, max_side: int = MAX_SIDE) -> Iterator[Image.Image]:
    """The sheet, in as many pieces as the limit asks for, each with its labels. size: (width, height) in pixels that each picture is
    fitted into."""
    width, height = size
    letters = max(11, min(28, round(min(size) / 14)))
    left = _left(sheet, letters, width)
    top = _top(sheet, letters, left, width + GAP)
    max_pixels = min(MAX_PIXELS, max_side * max_side)
    across = max(1, (max_side - left - GAP) // (width + GAP))
    across = min(across, len(sheet.columns))
    side = min(max_side, max(1, max_pixels // (left + across * (width + GAP) + GAP)))
    down = max(1, (side - top - GAP) // (height + GAP))
    for first_row in range(0, len(sheet.rows), down):
        for first_column in range(0, len(sheet.columns), across):
            rows = range(first_row, min(first_row + down, len(sheet.rows)))
            columns = range(first_column, min(first_column + across, len(sheet.columns)))
            yield _piece(sheet, rows, columns, size, theme, letters)


def _left(sheet: Sheet, letters: int, width: int) -> int:
    """The room of the row labels: as wide as the longest, at most most of a picture."""
    longest = max((text_length(printable(text), letters) for text in (*sheet.rows, sheet.corner)), default=0)
    return 0 if not any(sheet.rows) else int(min(longest + 2 * letters, max(6 * letters, 0.75 * width)))


def _title_lines(sheet: Sheet, letters: int, left: int, room: float) -> list[str]:
    """They fit on a sheet of one column too, which may be all there is. left, room: of the row labels, and of a picture."""
    return (
        wrapped(sheet.title, letters + 3, min(max(room, 300.0), left + room) - letters)[:MAX_LINES]
        if sheet.title
        else []
    )


def _top(sheet: Sheet, letters: int, left: int, room: float) -> int:
    lines = max((len(wrapped(text, letters, room - letters)) for text in sheet.columns), default=0)
    line = round(1.35 * letters)
    corner = len(wrapped(sheet.corner, letters, max(room, 200.0))) if sheet.corner else 0
    title = (len(_title_lines(sheet, letters, left, room)) * (line + 4) + letters // 2) if sheet.title else 0
    scale = 3 * line if sheet.scale else 0
    own = lines * line + letters if any(sheet.columns) else 0
    return title + scale + own + (0 if not corner or any(sheet.rows) else line)


def _piece(sheet: Sheet, rows: range, columns: range, size: tuple[int, int], theme: str, letters: int) -> Image.Image:
    width, height = size
    colours = {role: ImageColor.getrgb(colour) for role, colour in THEMES[theme].items()}
    left = _left(sheet, letters, width)
    top = _top(sheet, letters, left, width + GAP)
    full = left + len(columns) * (width + GAP) + GAP
    canvas = Image.new("RGB", (full, top + len(rows) * (height + GAP) + GAP), colours["back"])
    pen = ImageDraw.Draw(canvas)
    line, y = round(1.35 * letters), letters // 2
    for text in _title_lines(sheet, letters, left, width + GAP):
        write(pen, (GAP + letters // 2, y + letters + 3), text, letters + 3, colours["text"])
        y += line + 4
    if sheet.scale:
        _draw_scale(canvas, pen, sheet.scale, (GAP + letters // 2, y), full, letters, colours)
    for place, column in enumerate(columns):
        lines = wrapped(sheet.columns[column], letters, width - letters)
        middle = left + GAP + place * (width + GAP) + width / 2
        for at, text in enumerate(reversed(lines)):
            write(pen, (middle, top - letters // 2 - at * line), text, letters, colours["text"], "middle")
    for place, row in enumerate(rows):
        y = top + GAP + place * (height + GAP)
        lines = wrapped(sheet.rows[row], letters, left - 1.5 * letters)[: max(1, height // line)]
        begin = y + (height - len(lines) * line) / 2 + letters
        for at, text in enumerate(lines):
            write(pen, (left - letters * 0.5, begin + at * line), text, letters, colours["text"], "end")
        for number, column in enumerate(columns):
            corner = left + GAP + number * (width + GAP), y
            _draw_cell(canvas, pen, sheet.cells[row][column], corner, size, letters, colours)
    return canvas


def _draw_cell(canvas, pen, cell: Cell, corner: tuple[int, int], size: tuple[int, int], letters: int, colours) -> None:
    x, y = corner
    width, height = size
    if cell.picture is not None:
        picture = fitted(Image.fromarray(cell.picture()), size)
        canvas.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
        return
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colours["panel"])
    small = max(9, letters - 3)
    line = round(1.35 * small)
    for at, text in enumerate(wrapped(cell.words, small, width - small, lines=max(1, height // line - 1))):
        write(pen, (x + small // 2, y + (at + 1) * line), text, small, colours["bad"])


def _draw_scale(canvas, pen, scale: Scale, corner: tuple[int, int], full: int, letters: int, colours) -> None:
    x, y = corner
    wide, high = max(40, min(240, full - 2 * x - 2)), max(6, letters // 2)
    bar = scale.colours(numpy.linspace(0, 1, wide, dtype=numpy.float32)[None].repeat(high, axis=0))
    canvas.paste(Image.fromarray(bar), (x, y))
    text = f"0 to {scale.most:.3g}: {scale.text}"
    for at, part in enumerate(wrapped(text, max(9, letters - 2), max(120, full - 2 * x), lines=2)):
        write(pen, (x, y + high + (at + 1) * round(1.2 * letters)), part, max(9, letters - 2), colours["dim"])


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As large as it can be within ``size``, never enlarged beyond whole multiples: small pictures keep hard pixels."""
    scale = min(size[0] / picture.width, size[1] / picture.height)
    if scale == 1:
        return picture
    if scale > 1:
        times = max(1, int(scale))
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    to = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(to, Image.Resampling.LANCZOS)


def wrapped(text: str, size: int, room: float, lines: int = MAX_LINES) -> list[str]:
    """A label on as many lines as it needs and may have: broken at blanks, else behind one of ``_-/.,``, else anywhere; what is still
    too long ends in dots."""
    found: list[str] = []
    rest = printable(text).strip()
    while rest:
        if text_length(rest, size) <= room:
            return [*found, rest]
        if len(found) == lines - 1:
            return [*found, _dotted(rest, size, room)]
        cut = _fits(rest, size, room)
        head = rest[:cut]
        blank = head.rfind(" ")
        mark = max(head.rfind(letter) for letter in "_-/.,")
        if rest[cut : cut + 1] != " " and blank > 0:
            cut = blank
        elif rest[cut : cut + 1] != " " and mark > cut // 3:
            cut = mark + 1
        found.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return found


def _fits(text: str, size: int, room: float, end: str = "") -> int:
    """How many letters fit with ``end`` behind them, at least one: found by halving."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_length(text[:middle] + end, size) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _dotted(text: str, size: int, room: float) -> str:
    return text[: _fits(text, size, room, "...")].rstrip() + "..."


def side_by_side(pictures: Picture) -> Picture:
    """[count, height, width, 3] as one picture [height, count * width, 3]: a batch in one place of a grid."""
    return numpy.concatenate(list(pictures), axis=1)


def as_images(sheets: Sequence[Image.Image], theme: str) -> Tensor:
    """[count, height, width, 3] from 0 to 1: sheets of different sizes have room at their right and lower edges. Raises StrataError for
    none."""
    if not sheets:
        raise StrataError("There is no picture to lay out.")
    size = max(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets)
    found = torch.empty((len(sheets), size[1], size[0], 3))
    for at, sheet in enumerate(sheets):
        whole = Image.new("RGB", size, THEMES[theme]["back"])
        whole.paste(sheet)
        found[at] = torch.from_numpy(numpy.asarray(whole).astype(numpy.float32) / 255)
    return found
