"""The words around the numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def head(machine: str, quick: bool) -> str:
    return "\n".join(
        [
            "# Benchmark",
            "",
            "Made by `python3 dev.py bench`. Strata and ComfyUI's own loader take turns in one process; a number is the median of its",
            "rounds, a ratio is taken within each round and given as median (smallest to largest). Seconds are CPU seconds of the",
            "process with one thread, so other programs on the machine do not count (with `--threads`: seconds by the clock). A ratio",
            "above 1 means that ComfyUI takes longer, unless it says otherwise. Random weights and LoRAs on every matrix and convolution;",
            "FLUX is FLUX.1 at its real width with 1 double and 2 single blocks.",
            "",
            f"Machine: {machine}." + (" Quick run." if quick else ""),
        ]
    )


def merged(kept: str, new: str) -> str:
    """The results that are checked in, with each section of ``new`` in place of that of its title, or behind all others.

    What stands before the first section stays as it is.
    """
    head, *old = re.split(r"^(?=## )", kept, flags=re.MULTILINE)
    sections = {section.partition("\n")[0]: section.strip() for section in old}
    for section in re.split(r"^(?=## )", new, flags=re.MULTILINE)[1:]:
        sections[section.partition("\n")[0]] = section.strip()
    return "\n\n".join([head.strip(), *sections.values()]) + "\n"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *notes: str) -> str:
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    if notes:
        lines += ["", *notes]
    return "\n".join(lines)


def seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def size(value: float) -> str:
    return f"{value / 2**20:.1f} MB"
