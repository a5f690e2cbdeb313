"""Any list of pictures as labelled sheets."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..lora_math.errors import StrataError
from . import inputs
from .inspecting.themes import read_theme
from .sweep.sheet_inputs import read_cell_size, sheet_inputs

MAX_PICTURES = 1000


class StrataImageGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataImageGrid",
            display_name="Image Grid (Strata)",
            category="loaders/strata",
            description="Lays any list of pictures out as a labelled grid, on more sheets where one would be too large.",
            search_aliases=["image grid", "contact sheet", "xy plot", "combine images", "labelled grid"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures: a batch, a list, or a list of batches, row by row."),
                io.String.Input(
                    "columns",
                    default="",
                    multiline=True,
                    tooltip="Labels above the columns: with commas between them, one on each line, or a list over a wire.",
                ),
                io.String.Input(
                    "rows", default="", multiline=True, tooltip="Labels on the left of the rows, in the same way."
                ),
                io.Int.Input(
                    "across",
                    default=0,
                    min=0,
                    max=MAX_PICTURES,
                    optional=True,
                    tooltip="How many pictures lie side by side; 0: as many as there are labels of columns, else about a square.",
                ),
                io.String.Input("title", default="", optional=True, tooltip="A line above all of it."),
                *sheet_inputs(),
            ],
            outputs=[io.Image.Output("IMAGE", tooltip="The sheets.")],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, images=None, columns=None, rows=None, across=None, title=None, cell_size=None, theme=None):
        import numpy

        from .sweep import grid

        pictures = _pictures(images)
        theme, limit = read_theme(_first(theme)), read_cell_size(_first(cell_size))
        count = _within(inputs.whole(_first(across), "across"), "across", MAX_PICTURES)
        title = inputs.text(_first(title) or "", "title", "Write a line, or nothing.")
        above, beside = _labels(columns, "columns"), _labels(rows, "rows")
        wide = (
            count or len(above) or (-(-len(pictures) // len(beside)) if beside else math.isqrt(len(pictures) - 1) + 1)
        )
        high = -(-len(pictures) // wide)
        for found, places, name in ((above, wide, "columns"), (beside, high, "rows")):
            if found and len(found) != places:
                labels = f"{len(found)} label{'' if len(found) == 1 else 's'}"
                raise StrataError(
                    f"{name} has {labels}, and {len(pictures)} pictures, {wide} side by side, make {places} {name}. "
                    f"Write {places} labels with commas between them, or none"
                    f"{'' if count else '; across says how many lie side by side'}."
                )

        def cell(at: int) -> grid.Cell:
            if at >= len(pictures):
                return grid.Cell(None, "")
            return grid.Cell(lambda: numpy.clip(255.0 * pictures[at].cpu().float().numpy(), 0, 255).astype(numpy.uint8))

        cells = [[cell(row * wide + column) for column in range(wide)] for row in range(high)]
        longest = max(max(picture.shape[:2]) for picture in pictures)
        scale = min(1.0, limit / longest) if limit else 1.0
        size = tuple(max(16, round(max(picture.shape[side] for picture in pictures) * scale)) for side in (1, 0))
        sheet = grid.Sheet(cells, beside or [""] * high, above or [""] * wide, title)
        return io.NodeOutput(grid.as_images(list(grid.draw(sheet, size, theme)), theme))


def _first(value):
    """Of an input that is no list of its own: ComfyUI hands over every input of such a node as a list."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _pictures(images) -> list:
    given = images if isinstance(images, list) else [images]
    found = []
    for batch in given:
        if getattr(batch, "ndim", 0) != 4 or batch.shape[-1] < 3 or 0 in batch.shape:
            raise StrataError("images is missing or no IMAGE. Connect pictures.")
        found += [picture[..., :3] for picture in batch]
    if not found:
        raise StrataError("images is an empty list. Connect pictures.")
    if len(found) > MAX_PICTURES:
        raise StrataError(f"images holds {len(found)} pictures; the most are {MAX_PICTURES}.")
    return found


def _labels(value, name: str) -> list[str]:
    """One text holds all labels; several, from a list, are one label each."""
    from .sweep.values import entries

    given = value if isinstance(value, list) else [value]
    texts = ["" if text is None else inputs.text(text, name, "Write labels, or nothing.") for text in given]
    return texts if len(texts) > 1 else entries(texts[0]) if texts else []


def _within(value: int, name: str, most: int) -> int:
    if not 0 <= value <= most:
        raise StrataError(f"{name} is {value}: it must be a whole number from 0 to {most}.")
    return value
