"""One picture of many: rows of labelled tiles beside a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TILE = 256
GAP = 16
MARGIN = 40
CAPTION = 52
INK, FAINT, PAPER = (28, 30, 34), (112, 116, 124), (250, 250, 248)


def contact_sheet(
    title: str,
    subtitle: str,
    reference: tuple[str, Image.Image],
    rows: Mapping[str, Sequence[tuple[str, str, Image.Image]]],
    path: Path,
) -> None:
    """Write a sheet: the reference on the left, and to the right one row per entry of ``rows``.

    A tile is (caption, remark, picture); all rows have the same number of tiles.
    """
    big, bold, small = (ImageFont.load_default(size) for size in (30, 17, 14))
    columns = max(len(row) for row in rows.values())
    heading, row_height = 104, 34 + TILE + CAPTION + 12
    left = MARGIN + TILE + 3 * GAP
    width = left + columns * (TILE + GAP) - GAP + MARGIN
    sheet = Image.new("RGB", (width, heading + len(rows) * row_height + MARGIN - 12), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 28), title, INK, big)
    draw.text((MARGIN, 68), subtitle, FAINT, small)

    def tile(x: int, y: int, caption: str, remark: str, image: Image.Image) -> None:
        sheet.paste(image.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + TILE + 7), caption, INK, bold)
        draw.text((x, y + TILE + 30), remark, FAINT, small)

    tile(MARGIN, heading + 34, reference[0], "the reference", reference[1])
    for index, (name, tiles) in enumerate(rows.items()):
        top = heading + index * row_height
        draw.text((left, top + 6), name, INK, bold)
        for column, (caption, remark, image) in enumerate(tiles):
            tile(left + column * (TILE + GAP), top + 34, caption, remark, image)
    sheet.save(path)
