"""Which block of a LoRA carries the picture, as a sweep found it that left out one block after another: kept for the desk of that LoRA,
in this session and in later ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...lora_math.errors import StrataError
from ..comfy import user_files
from ..comfy.library import file_key
from ..comfy.lora_names import locate
from ..stack import StackEntry
from .axes import WITHOUT
from .energies import Blocks
from .identity import digest
from .plan import UNCHANGED, Plan
from .run import Outcome

FILE = "carried_blocks.json"
# The most LoRAs that are remembered, those of the latest sweeps, and the most blocks of each.
MAX_LORAS, MAX_BLOCKS = 200, 1000


def row_of_sweep(plan: Plan, rows: tuple[StackEntry, ...], compare: str, blocks: Blocks) -> StackEntry | None:
    """The LoRA all of whose blocks a sweep leaves out one by one, beside the whole of it: its strengths alone, with no block weights, no
    strength over time and no mask. None for any other sweep; axes that leave the LoRAs alone, such as seeds, may stand beside."""
    without = [axis for axis in plan.axes if axis.kind == WITHOUT]
    of_rows = [axis for axis in plan.axes if axis.rows]
    if compare != UNCHANGED or len(without) != 1 or of_rows != without or len(without[0].rows) != 1:
        return None
    row = rows[without[0].rows[0]]
    if any(part is not None for part in (row.lora, row.block_weights, row.keyframes, row.mask)):
        return None
    try:
        return row if set(blocks.of(row)) <= set(without[0].values) else None
    # The cells say why.
    except StrataError:
        return None


def differences(plan: Plan, outcomes: Mapping[int, Outcome]) -> dict[str, float]:
    """Block -> RMS of the difference that leaving it out makes, over all cells that leave it out; blocks whose cells failed are missing."""
    at = next(at for at, axis in enumerate(plan.axes) if axis.kind == WITHOUT)
    squares: dict[str, list[float]] = {}
    for number, cell in enumerate(plan.shown):
        found = outcomes[number].difference
        if found is not None:
            squares.setdefault(plan.axes[at].values[cell.at[at]], []).append(found.rms**2)
    return {name: math.sqrt(math.fsum(each) / len(each)) for name, each in squares.items()}


def keep(row: StackEntry, found: Mapping[str, float], model: str) -> None:
    """model: the file that drew, empty where that is not known. Raises OSError, and StrataError for a name without a file."""
    name, path = locate(row[0])
    told = {
        "file": digest(repr(file_key(path).kept)),
        "model": row[1],
        "clip": row[2],
        "drawn_with": model,
        "blocks": dict(list(found.items())[:MAX_BLOCKS]),
    }

    def change(data: dict) -> None:
        data.pop(name, None)
        data[name] = told
        for oldest in list(data)[:-MAX_LORAS]:
            del data[oldest]

    user_files.change_json(FILE, change)


def known_of(name: str, path: str) -> dict:
    """What the desk is told: ``{"blocks": {block: RMS}, "model", "clip": the strengths, "drawn_with"}``; no blocks where there is nothing,
    or it is about another file of that name."""
    data = user_files.read_json(FILE)
    told = data.get(name) if isinstance(data, dict) else None
    nothing = {"blocks": {}}
    if not isinstance(told, dict) or told.get("file") != digest(repr(file_key(path).kept)):
        return nothing
    blocks, drawn_with = told.get("blocks"), told.get("drawn_with")
    strengths = {side: told.get(side) for side in ("model", "clip")}
    if not isinstance(blocks, dict) or not all(map(_is_number, strengths.values())):
        return nothing
    return {
        "blocks": {str(block): float(rms) for block, rms in list(blocks.items())[:MAX_BLOCKS] if _is_number(rms)},
        "drawn_with": drawn_with if isinstance(drawn_with, str) else "",
        **strengths,
    }


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
