"""A sweep as a table: a row for each cell, for programs to read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .axes import PROMPT, Axis
from .measure import Difference

# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Line:
    """One cell. number: from 1; values: of the axes; loras: as tags; file: of its picture, relative to the output folder, empty where
    there is none; difference: from what it is compared with; energies: block -> squared norm of the LoRAs' change with their strengths
    and block weights; error: why it has no picture."""

    number: int
    values: tuple
    loras: str
    seed: int
    file: str = ""
    difference: Difference | None = None
    energies: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


def _columns(axes: Sequence[Axis]) -> list[str]:
    """The axes' names, each only once: two may leave out a block."""
    names: list[str] = []
    for axis in axes:
        name, number = axis.name, 2
        while name in names:
            name, number = f"{axis.name} {number}", number + 1
        names.append(name)
    return names


def _value(axis: Axis, value):
    return value[1] if axis.kind == PROMPT else value


def as_csv(axes: Sequence[Axis], lines: Sequence[Line]) -> str:
    """With a heading. Texts that a spreadsheet would run as a formula begin with an apostrophe."""
    blocks = list(dict.fromkeys(name for line in lines for name in line.energies))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = ["rms", "mean_absolute", "ssim"]
    writer.writerow(
        map(
            _plain,
            ["cell", *_columns(axes), *numbers, "seed", "loras", "file", "error", *(f"energy {b}" for b in blocks)],
        )
    )
    for line in lines:
        found = line.difference
        measured = ["", "", ""] if found is None else [f"{x:.6g}" for x in (found.rms, found.mean, found.similarity)]
        own = [_value(axis, value) for axis, value in zip(axes, line.values, strict=True)]
        energies = [f"{line.energies[name]:.6g}" if name in line.energies else "" for name in blocks]
        cells = [line.number, *own, *measured, line.seed, line.loras, line.file, line.error, *energies]
        writer.writerow(map(_plain, cells))
    return out.getvalue()


def _plain(value):
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_json(axes: Sequence[Axis], lines: Sequence[Line]) -> str:
    names = _columns(axes)
    told = {
        "axes": [
            {"name": name, "kind": axis.kind, "values": [_value(axis, value) for value in axis.values]}
            for name, axis in zip(names, axes, strict=True)
        ],
        "cells": [
            {
                "cell": line.number,
                "values": {n: _value(a, v) for n, a, v in zip(names, axes, line.values, strict=True)},
                **({} if line.difference is None else _numbers(line.difference)),
                "seed": line.seed,
                "loras": line.loras,
                **({"file": line.file} if line.file else {}),
                **({"energies": dict(line.energies)} if line.energies else {}),
                **({"error": line.error} if line.error else {}),
            }
            for line in lines
        ],
    }
    return json.dumps(told, indent=1)


def _numbers(found: Difference) -> dict[str, float]:
    return {"rms": found.rms, "mean_absolute": found.mean, "ssim": found.similarity}
