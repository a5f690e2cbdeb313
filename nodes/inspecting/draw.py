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
        at = (shape.x * SCALE, shape.y * SCALE)
        write(pen, at, shape.text, round(shape.size * SCALE), colour, shape.anchor)


def write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, pixels: int, colour, anchor="start") -> None:
    """at: the left end, the middle or the right end of the baseline, as ``anchor`` says: "start", "middle" or "end"."""
    font = _font_for(text, pixels)
    if isinstance(font, ImageFont.FreeTypeFont):
        pen.text(at, text, fill=colour, font=font, anchor=_ANCHORS[anchor])
    # Pillow without FreeType has one small typeface of Latin letters, which it places by its corner.
    else:
        text = _latin(text)
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * font.getlength(text)
        pen.text((at[0] - shift, at[1] - pixels * 0.8), text, fill=colour, font=font)


def text_length(text: str, pixels: int) -> float:
    """How wide ``write`` writes a text, in pixels."""
    font = _font_for(text, pixels)
    return font.getlength(text if isinstance(font, ImageFont.FreeTypeFont) else _latin(text))


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")


def _font_for(text: str, pixels: int):
    return _font(pixels, all(ord(letter) < 0x250 for letter in text))


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
