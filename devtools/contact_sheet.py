"""One picture of many: rows of labelled tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TILE = 192
GAP = 14
MARGIN = 36
CAPTION = 50
INK, FAINT, PAPER, RULE = (28, 30, 34), (112, 116, 124), (250, 250, 248), (224, 226, 228)

Tile = tuple[str, str, Image.Image]


def contact_sheet(title: str, subtitle: str, rows: Mapping[str, Sequence[Tile]], path: Path) -> None:
    """Write a sheet with one row for each entry of ``rows``, under its name.

    A tile is (caption, remark, picture). Small pictures are enlarged as they are, not smoothed beyond what a screen does.
    """
    big, bold, small = (ImageFont.load_default(size) for size in (30, 17, 14))

    def fitting(text: str, largest: int) -> ImageFont.FreeTypeFont:
        """The largest font in which the text is not wider than a tile."""
        fonts = (ImageFont.load_default(size) for size in range(largest, 8, -1))
        return next((font for font in fonts if font.getlength(text) <= TILE), ImageFont.load_default(9))

    columns = max(len(row) for row in rows.values())
    heading, row_height = 104, 34 + TILE + CAPTION + 14
    width = MARGIN + columns * (TILE + GAP) - GAP + MARGIN
    width = max(width, MARGIN * 2 + round(max(small.getlength(subtitle), big.getlength(title))))
    sheet = Image.new("RGB", (width, heading + len(rows) * row_height + MARGIN - 14), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 28), title, INK, big)
    draw.text((MARGIN, 68), subtitle, FAINT, small)
    for index, (name, tiles) in enumerate(rows.items()):
        top = heading + index * row_height
        draw.text((MARGIN, top + 6), name, INK, bold)
        for column, (caption, remark, image) in enumerate(tiles):
            x, y = MARGIN + column * (TILE + GAP), top + 34
            sheet.paste(image.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC), (x, y))
            draw.rectangle((x - 1, y - 1, x + TILE, y + TILE), outline=RULE)
            draw.text((x, y + TILE + 7), caption, INK, fitting(caption, 17))
            draw.text((x, y + TILE + 29), remark, FAINT, fitting(remark, 14))
    sheet.save(path, optimize=True)
