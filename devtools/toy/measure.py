"""How well the toy does what it was trained for, in numbers. A distance is the root mean square of colours, 0..255."""

from __future__ import annotations

import numpy as np


def distances(made: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """[made, originals] from [n, height, width, 3] and [m, height, width, 3], both uint8."""
    first, second = (np.float32(part).reshape(len(part), -1) for part in (made, originals))
    square = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return np.sqrt(np.maximum(square, 0) / first.shape[1])


def recognised(made: np.ndarray, originals: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether the nearest of all originals is the one at ``right[i]``: [made], bool."""
    return distances(made, originals).argmin(1) == right


def share(made: np.ndarray, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """How far each picture has come on the way from ``start`` to ``goal``: 0 at the start, 1 at the goal, [n].

    The foot of the perpendicular on the line between the two, so that what is off that line does not count.
    """
    made, start, goal = (np.float64(part).reshape(len(part), -1) for part in (made, start, goal))
    way = goal - start
    return ((made - start) * way).sum(1) / (way**2).sum(1)
