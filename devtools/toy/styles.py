"""Transformations of a drawing. A LoRA that learned one can be measured on drawings that it never saw.

Each takes and gives [height, width, 3], uint8.
"""

from __future__ import annotations

import numpy as np

BLUE, CHALK = (16, 40, 122), (204, 226, 255)
INK, CREAM = (74, 38, 22), (252, 236, 196)


def mix(low: tuple, high: tuple, amount: np.ndarray) -> np.ndarray:
    """The colour ``low`` where ``amount`` [height, width] is 0 and ``high`` where it is 1."""
    amount = np.clip(amount, 0, 1)[..., None]
    return np.rint((1 - amount) * np.asarray(low) + amount * np.asarray(high)).astype(np.uint8)


def blueprint(drawing: np.ndarray) -> np.ndarray:
    """Blue ink on pale blue paper, in the drawing's own lightness."""
    lightness = drawing @ np.array((0.30, 0.59, 0.11)) / 255
    return mix(BLUE, CHALK, lightness * 1.1 - 0.1)


def moonlight(drawing: np.ndarray) -> np.ndarray:
    """Every colour as it looks in blue light."""
    return np.uint8(np.rint(drawing * np.array((0.26, 0.36, 0.62)) + np.array((6, 12, 34))))


def picture_book(drawing: np.ndarray) -> np.ndarray:
    """Brown ink on cream paper, in the drawing's own lightness."""
    lightness = drawing @ np.array((0.30, 0.59, 0.11)) / 255
    return mix(INK, CREAM, lightness * 1.1 - 0.1)


STYLES = {"blueprint": blueprint, "moonlight": moonlight, "picture book": picture_book}
