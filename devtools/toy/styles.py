"""Transformations of a drawing. A LoRA that learned one can be measured on drawings that it never saw.

Each takes and gives [height, width, 3], uint8.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BLUE, CHALK = (26, 68, 146), (236, 244, 255)
NIGHT, RIM = (14, 18, 54), (196, 214, 255)
INK, CREAM = (74, 38, 22), (252, 236, 196)


def mix(low: tuple, high: tuple, amount: np.ndarray) -> np.ndarray:
    """The colour ``low`` where ``amount`` [height, width] is 0 and ``high`` where it is 1."""
    amount = np.clip(amount, 0, 1)[..., None]
    return np.rint((1 - amount) * np.asarray(low) + amount * np.asarray(high)).astype(np.uint8)


def background(drawing: np.ndarray) -> np.ndarray:
    """Where the white around the subject is, reached from the corners: [height, width], bool."""
    image = Image.fromarray(drawing)
    height, width = drawing.shape[:2]
    marker = (255, 0, 254)
    for corner in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        if min(image.getpixel(corner)) > 240:
            ImageDraw.floodfill(image, corner, marker, thresh=20)
    return (np.asarray(image) == marker).all(-1)


def blueprint(drawing: np.ndarray) -> np.ndarray:
    """White on blue, as the process of that name prints: what was dark lets the paper white."""
    lightness = drawing @ np.array((0.30, 0.59, 0.11)) / 255
    return mix(CHALK, BLUE, lightness)


def moonlight(drawing: np.ndarray) -> np.ndarray:
    """The subject in cool, dimmed colours with a pale rim, on the dark blue of night."""
    outside = background(drawing)
    dimmed = drawing * np.array((0.50, 0.60, 0.82)) + np.array((8, 14, 40))
    picture = np.where(outside[..., None], np.array(NIGHT), dimmed)
    inside = Image.fromarray(np.uint8(~outside) * 255)
    wide, narrow = inside.filter(ImageFilter.MaxFilter(3)), inside.filter(ImageFilter.MinFilter(3))
    rim = (np.asarray(wide) > 0) & (np.asarray(narrow) == 0)
    picture = np.where(rim[..., None], np.array(RIM), picture)
    return np.asarray(Image.fromarray(np.uint8(np.rint(picture))).filter(ImageFilter.GaussianBlur(0.5)))


def picture_book(drawing: np.ndarray) -> np.ndarray:
    """Brown ink on cream paper, in the drawing's own lightness."""
    lightness = drawing @ np.array((0.30, 0.59, 0.11)) / 255
    return mix(INK, CREAM, lightness * 1.1 - 0.1)


STYLES = {"blueprint": blueprint, "moonlight": moonlight, "picture book": picture_book}
