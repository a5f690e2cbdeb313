"""The inputs of every node that draws labelled sheets, and how they are read."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora_math.errors import StrataError
from .. import inputs
from ..inspecting.themes import theme_input

CELL_SIZE, MAX_CELL_SIZE = 512, 8192


def sheet_inputs(more: str = "") -> list:
    """more: a sentence behind the tooltip of cell_size."""
    size = "Pixels of the longer side of each picture on the sheets; 0: as large as it is."
    return [
        io.Int.Input(
            "cell_size",
            default=CELL_SIZE,
            min=0,
            max=MAX_CELL_SIZE,
            optional=True,
            advanced=True,
            tooltip=f"{size} {more}".strip(),
        ),
        theme_input("the sheets", optional=True, advanced=True),
    ]


def read_cell_size(value) -> int:
    """Raises StrataError."""
    found = inputs.whole(value, "cell_size", CELL_SIZE)
    if not 0 <= found <= MAX_CELL_SIZE:
        raise StrataError(f"cell_size is {found}: it goes from 0 to {MAX_CELL_SIZE}.")
    return found
