"""How a report words lists and numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

# Examples for each group: a report is read on a node.
SHOWN = 3


def tensors(n: int) -> str:
    return f"{n} tensor" if n == 1 else f"{n} tensors"


def some(names: Iterable[str], limit: int = SHOWN) -> str:
    names = list(dict.fromkeys(names))
    shown = ", ".join(name if len(name) <= 90 else name[:87] + "..." for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def spread(numbers: Sequence[float], median: bool = True) -> str:
    low, high = min(numbers), max(numbers)
    if low == high:
        return number(low)
    if not median:
        return f"{number(low)} to {number(high)}"
    return f"{number(low)} to {number(high)} (median {number(statistics.median(numbers))})"


def number(value: float) -> str:
    return f"{value:.6g}"
