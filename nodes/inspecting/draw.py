"""A picture of shapes drawn by Pillow, as an IMAGE."""

from __future__ import annotations

import inspect
from functools import lru_cache

import numpy
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from .shapes import Picture, Shape
from .themes import THEMES

# Pixels for each px of the layout.
SCALE = 2
# The most pixels.
MAX_HEIGHT = 16_000
# Typefaces that systems have for letters that Pillow's own lacks.
_OTHERS = ("msyh.ttc", "NotoSansCJK-Regular.ttc", "PingFang.ttc", "DejaVuSans.ttf", "arial.ttf")
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def image_of(picture: Picture, theme: str) -> Tensor:
    """[1, height, width, 3], from 0 to 1."""
    colours = {role: ImageColor.getrgb(colour) for role, colour in THEMES[theme].items()}
    size = round(picture.width * SCALE), min(round(picture.height * SCALE), MAX_HEIGHT)
    canvas = Image.new("RGB", size, colours["back"])
    pen = ImageDraw.Draw(canvas)
    for shape in picture.shapes:
        # Such a shape only answers the pointer.
        if shape.role != "none":
            _draw(pen, shape, colours[shape.role])
    return torch.from_numpy(numpy.asarray(canvas).astype(numpy.float32) / 255)[None]


def _draw(pen: ImageDraw.ImageDraw, shape: Shape, colour) -> None:
    if shape.kind == "rect":
        left, top = shape.x * SCALE, shape.y * SCALE
        right, bottom = left + shape.w * SCALE - 1, top + shape.h * SCALE - 1
        if right >= left and bottom >= top:
            pen.rounded_rectangle((left, top, right, bottom), shape.radius * SCALE, fill=colour)
    elif shape.kind == "line":
        points = [(x * SCALE, y * SCALE) for x, y in shape.points]
        pen.line(points, fill=colour, width=max(1, round(shape.width * SCALE)), joint="curve")
    else:
        plain = all(ord(letter) < 0x250 for letter in shape.text)
        font = _font(round(shape.size * SCALE), plain)
        if isinstance(font, ImageFont.FreeTypeFont):
            at = (shape.x * SCALE, shape.y * SCALE)
            pen.text(at, shape.text, fill=colour, font=font, anchor=_ANCHORS[shape.anchor])
        # Pillow without FreeType has one small typeface of Latin letters, which it places by its corner.
        else:
            text = shape.text.encode("latin-1", "replace").decode("latin-1")
            shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[shape.anchor] * pen.textlength(text, font=font)
            pen.text((shape.x * SCALE - shift, (shape.y - shape.size * 0.8) * SCALE), text, fill=colour, font=font)


@lru_cache(maxsize=64)
def _font(pixels: int, plain: bool):
    if not plain:
        for name in _OTHERS:
            try:
                return ImageFont.truetype(name, pixels)
            except OSError:
                continue
    # Pillow has it since 10.1.
    if "size" in inspect.signature(ImageFont.load_default).parameters:
        return ImageFont.load_default(pixels)
    return ImageFont.load_default()
