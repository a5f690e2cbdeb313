"""Transformations of a drawing. A LoRA that learned one can be measured on drawings that it never saw.

Each takes and gives [height, width, 3], uint8.
"""

from __future__ import annotations

import numpy as np

BLUE, CHALK = (16, 40, 122), (204, 226, 255)
INK, CREAM = (74, 38, 22), (252, 236, 196)
RASPBERRY, ROSE = (128, 8, 72), (255, 214, 230)
PINE, MINT = (8, 72, 40), (204, 246, 214)


def mix(low: tuple, high: tuple, amount: np.ndarray) -> np.ndarray:
    """The colour ``low`` where ``amount`` [height, width] is 0 and ``high`` where it is 1."""
    amount = np.clip(amount, 0, 1)[..., None]
    return np.rint((1 - amount) * np.asarray(low) + amount * np.asarray(high)).astype(np.uint8)


def printed(drawing: np.ndarray, ink: tuple, paper: tuple) -> np.ndarray:
    lightness = drawing @ np.array((0.30, 0.59, 0.11)) / 255
    return mix(ink, paper, lightness * 1.1 - 0.1)


def blueprint(drawing: np.ndarray) -> np.ndarray:
    """Blue ink on pale blue paper, in the drawing's own lightness."""
    return printed(drawing, BLUE, CHALK)


def moonlight(drawing: np.ndarray) -> np.ndarray:
    """Every colour as it looks in blue light."""
    return np.uint8(np.rint(drawing * np.array((0.26, 0.36, 0.62)) + np.array((6, 12, 34))))


def picture_book(drawing: np.ndarray) -> np.ndarray:
    """Brown ink on cream paper, in the drawing's own lightness."""
    return printed(drawing, INK, CREAM)


def raspberry(drawing: np.ndarray) -> np.ndarray:
    """Raspberry ink on pale pink paper, in the drawing's own lightness."""
    return printed(drawing, RASPBERRY, ROSE)


def meadow(drawing: np.ndarray) -> np.ndarray:
    """Green ink on pale green paper, in the drawing's own lightness."""
    return printed(drawing, PINE, MINT)


# Those that the decoder has seen: as it is shipped, it was trained before the later ones were there.
FIRST_STYLES = {"blueprint": blueprint, "moonlight": moonlight, "picture book": picture_book}
STYLES = {**FIRST_STYLES, "raspberry": raspberry, "meadow": meadow}
