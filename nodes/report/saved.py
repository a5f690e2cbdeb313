"""What a person reads about a LoRA that was saved: where it is, how large, and what was lost, in total and by block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ...lora_math.algebra.budget import Budget
from ...lora_math.algebra.shrink import Quality, Stored, quality
from ...lora_math.reading.problems import show_size
from ...lora_math.writing.file import Saved

# Of the type's step: both factors, with room.
ROUNDING = 2.0


def percent(error: float) -> str:
    return "0 %" if error < 1e-9 else f"{100 * error:.2g} %"


def ranks(layers: Sequence[Stored]) -> str:
    found = sorted(layer.rank for layer in layers if layer.rank)
    whole = sum(layer.whole is not None for layer in layers)
    said = [f"rank {found[0]}" if found[0] == found[-1] else f"rank {found[0]} to {found[-1]}"] if found else []
    if whole:
        said.append(f"{whole} stored whole")
    return ", ".join(said) or "nothing left"


def verdict(name: str, saved: Saved, layers: Sequence[Stored]) -> str:
    """One line, which a node shows two narrow rows of: a long name comes last."""
    found = quality(list(layers))
    return f"Saved, error {percent(found.error)}, {show_size(saved.size)}, {ranks(layers)}: {name}"


def unmet(budget: Budget, found: Quality, precision: torch.dtype, advice: str) -> list[str]:
    """A line where more is lost than ``budget`` allows: changes without factors are looked at up to a rank only. advice: what to do."""
    allowed = {"error": budget.amount, "energy": math.sqrt(max(1 - budget.amount, 0.0))}.get(budget.kind)
    if allowed is None or found.error <= math.hypot(allowed, ROUNDING * torch.finfo(precision).eps):
        return []
    return [f"The error is larger than was asked for ({percent(allowed)}): {advice}"]


def text(
    name: str,
    saved: Saved,
    layers: Mapping[tuple[str, str], Stored],
    blocks: Mapping[tuple[str, str], str],
    how: Sequence[str],
    notes: Sequence[str],
) -> str:
    """how: lines on the settings that acted; notes: what was left out."""
    every = list(layers.values())
    found = quality(every)
    lines = [
        verdict(name, saved, every),
        f"Strength {found.gain:.4f} of what was asked for. {len(every)} weights. {saved.path}",
        *how,
    ]
    grouped: dict[str, list[Stored]] = {}
    for place, layer in layers.items():
        grouped.setdefault(blocks.get(place, "all layers"), []).append(layer)
    lines += [f"  {block}: {ranks(of)}, error {percent(quality(of).error)}" for block, of in grouped.items()]
    dropped = [place for place, layer in layers.items() if layer.rank == 0]
    if dropped:
        lines.append(f"{len(dropped)} layers were left with nothing, such as {dropped[0][0]}")
    return "\n".join([*lines, *notes])
