"""The pictures that the trained toy draws for README, help pages and templates; ``dev.py examples`` writes them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .contact_sheet import FAINT, INK, PAPER, RULE
from .served_toy import Row, ServedToy

SIDE = 512  # a template's picture: square, and shown as small as 200 pixels
STRIP_TILE, STRIP_GAP = 148, 10
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)

FOX = Row("picture_book", "fox", "fox")
OWL = Row("moonlight", "owl", "owl")
HOUSE = Row("picture_book", "house", "house")
CAR = Row("blueprint", "car", "car")
STRAWBERRY = Row("blueprint", "strawberry", "strawberry")
BOAT = Row("moonlight", "sailboat", "sailboat")
ROBOT = Row("robot", "robot", "robot")
CASTLE = Row("blueprint", "castle", "castle")
PAIRS = [Row("meadow_high_noise", words, words) for words in ("castle", "car")]
T_LORAS = [Row("raspberry", words, words) for words in ("car", "strawberry")]
BOOK, BLUE = "picture_book", "blueprint"
ALWAYS = "1@0%"


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """One drawing that changes from left to right: a vertical slice of each picture, with a line between."""
    whole = Image.new("RGB", (SIDE, SIDE))
    edges = [round(SIDE * number / len(pictures)) for number in range(len(pictures) + 1)]
    draw = ImageDraw.Draw(whole)
    for picture, left, right in zip(pictures, edges[:-1], edges[1:], strict=True):
        box = (left, 0, right, SIDE)
        whole.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).crop(box), box)
    for edge in edges[1:-1]:
        draw.line((edge, 0, edge, SIDE), "white", 6)
        draw.line((edge, 0, edge, SIDE), (60, 64, 72), 2)
    return whole


def quarters(pictures: Sequence[Image.Image]) -> Image.Image:
    """Four pictures, two by two."""
    whole, half = Image.new("RGB", (SIDE, SIDE), "white"), SIDE // 2
    for number, picture in enumerate(pictures):
        at = (number % 2 * half, number // 2 * half)
        whole.paste(picture.resize((half - 2, half - 2), Image.Resampling.BICUBIC), at)
    return whole


def strip(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Rows of (label, picture); the labels stand once if all rows have the same."""
    font = ImageFont.load_default(17)
    once = all([label for label, _ in row] == [label for label, _ in rows[0]] for row in rows)
    line, step = 30, STRIP_TILE + STRIP_GAP
    height = len(rows) * step + (line if once else len(rows) * line)
    whole = Image.new("RGB", (len(rows[0]) * step + STRIP_GAP, height + STRIP_GAP), PAPER)
    draw = ImageDraw.Draw(whole)
    top = STRIP_GAP
    for number, row in enumerate(rows):
        labelled = number == 0 or not once
        for column, (label, picture) in enumerate(row):
            x = STRIP_GAP + column * step
            if labelled:
                at = (x + STRIP_TILE / 2, top + line / 2 - 4)
                draw.text(at, label, INK if column else FAINT, font, "mm")
            y = top + (line if labelled else 0)
            whole.paste(picture.resize((STRIP_TILE, STRIP_TILE), Image.Resampling.BICUBIC), (x, y))
            draw.rectangle((x - 1, y - 1, x + STRIP_TILE, y + STRIP_TILE), outline=RULE)
        top += step + (line if labelled else 0)
    return whole


def thumbnails(toy: ServedToy) -> dict[str, Image.Image]:
    """Template -> its picture: without and with what the template shows, in one drawing."""
    before_after = {
        "Try it without any download": FOX,
        "LoRA on SD1.5": OWL,
        "LoRA on SDXL": HOUSE,
        "LoRA on FLUX": CAR,
    }
    made = {name: side_by_side([toy.alone(row), toy.at(row, 1.0)]) for name, row in before_after.items()}
    blocks = ("default=1", "D0=0, default=1", "S0-1=0, default=1", "S2-3=0, default=1")
    made["Block weights"] = quarters([toy.with_blocks(STRAWBERRY, weights)[0] for weights in blocks])
    made["Live strength"] = side_by_side([toy.at(BOAT, strength) for strength in (0.0, 0.4, 0.7, 1.0)])
    made["Strength over time"] = side_by_side([toy.from_start(CASTLE, percent) for percent in (0.0, 0.3, 0.5, 1.0)])
    made |= {name: draw(toy) for name, draw in THUMBNAILS.items()}
    half = toy.saved(OWL, "S2-3=0, default=1")
    made["Bake block weights into a file"] = side_by_side([toy.alone(OWL), toy.at(half, 1.0), toy.at(OWL, 1.0)])
    ranks = [toy.saved(CAR, shrink="rank", amount=float(rank)) for rank in (1, 2, 4)]
    made["Shrink a LoRA"] = quarters([toy.at(row, 1.0) for row in (*ranks, CAR)])
    warm, cold = replace(OWL, lora="picture_book"), replace(OWL, lora="blueprint")
    made["Merge two LoRAs"] = side_by_side([toy.at(warm, 1.0), toy.merged(warm, cold), toy.at(cold, 1.0)])
    made["Many LoRAs in a stack"] = quarters([toy.alone(OWL), *(toy.at(row, 1.0) for row in (OWL, warm, cold))])
    made["Find the right strength"] = quarters([toy.at(BOAT, strength) for strength in (0.0, 0.4, 0.8, 1.2)])
    made["Inspect a LoRA"] = toy.inspected(FOX).crop((0, 0, SIDE, SIDE))
    return made


def _speed_first(toy: ServedToy) -> Image.Image:
    """With the LoRA at no step, at the first steps, at all of them."""
    first = toy.over_time(OWL, "hold: 1@0s, 0@4s")
    return side_by_side([toy.alone(OWL), first, toy.at(OWL, 1.0)])


def _pair(toy: ServedToy) -> Image.Image:
    """Four drawings: a pair on neither, one, the other, and both halves of a sampling."""
    return quarters([picture for _, picture in pair(toy, PAIRS[1])])


def _by_masks(toy: ServedToy) -> Image.Image:
    return toy.by_masks(*_both("penguin", BOOK, BLUE)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


# Template -> what draws its picture, for those that can be drawn alone.
THUMBNAILS = {
    "Speed LoRA on the first steps": _speed_first,
    "A pair of LoRAs for Wan 2.2": _pair,
    "Two LoRAs by mask": _by_masks,
}


def _both(words: str, one: str, other: str) -> tuple[Row, Row]:
    return Row(one, words, words), Row(other, words, words)


def _all_alone(toy: ServedToy, *rows: Row) -> list[tuple[str, Image.Image]]:
    """Without a LoRA, then with each alone, beside the layers as in the pictures that follow."""
    alone = [(row.lora.replace("_", " "), toy.over_time(row, ALWAYS)) for row in rows]
    return [("without", toy.alone(rows[0])), *alone]


def over_time(toy: ServedToy, row: Row) -> list[tuple[str, Image.Image]]:
    """One LoRA at other times of the sampling."""
    presets = ("fade in", "fade out", "first third", "last third")
    all_the_time = ("all the time", toy.over_time(row, ALWAYS))
    return [("without", toy.alone(row)), all_the_time, *((name, toy.over_time(row, name)) for name in presets)]


def over_prompts(toy: ServedToy, row: Row) -> list[tuple[str, Image.Image]]:
    """One LoRA on the positive and on the negative prompt, at cfg 2."""
    prompts = {"without": (0, 0), "both prompts": (1, 1), "positive only": (1, 0), "negative only": (0, 1)}
    return [(name, toy.over_time(row, ALWAYS, *each, cfg=2.0)) for name, each in prompts.items()]


def by_masks(toy: ServedToy, one: Row, other: Row) -> list[tuple[str, Image.Image]]:
    return [*_all_alone(toy, one, other), ("left and right", toy.by_masks(one, other))]


def pair(toy: ServedToy, row: Row) -> list[tuple[str, Image.Image]]:
    """A pair of LoRAs for much and for little noise, at four strengths."""
    return [(f"{high};{low}", toy.on_a_pair(row, high, low)) for high, low in ((0, 0), (1, 0), (0, 1), (1, 1))]


def t_lora(toy: ServedToy, row: Row) -> list[tuple[str, Image.Image]]:
    """A T-LoRA of rank 8: one of its ranks at every step, and as it was trained."""
    one = toy.with_ranks(row, 1)
    return [
        ("without", toy.alone(row)),
        ("1 rank always", toy.at(one, 1.0)),
        ("as trained: 1 to 8", toy.at(row, 1.0)),
    ]


def taking_turns(toy: ServedToy, one: Row, other: Row) -> list[tuple[str, Image.Image]]:
    """Two LoRAs at once, and each at every other step."""
    ways = {
        "both at 1": (ALWAYS, ALWAYS),
        "both at 0.5": ("0.5@0%", "0.5@0%"),
        "taking turns": ("hold: 1@0s, 0@1s, again@2s", "hold: 0@0s, 1@1s, again@2s"),
    }
    return [*_all_alone(toy, one, other), *((name, toy.together(one, other, *texts)) for name, texts in ways.items())]


def strips(toy: ServedToy) -> dict[str, Image.Image]:
    """File name, without its ending, below web/docs/images -> picture."""

    def over_strengths(row: Row) -> list[tuple[str, Image.Image]]:
        return [(f"{strength:g}", toy.at(row, strength)) for strength in STRENGTHS]

    blocks = ["default=1", *(f"{block}=0" for block in ("D0", "S0", "S1", "S2", "S3"))]
    axes = {"x_axis": "strength", "x_values": "0-1.2(+0.2)", "y_axis": "prompt", "y_values": "fox, castle, owl"}
    turns = _both("robot", "robot", BLUE), _both("castle", BOOK, "moonlight")
    return {
        "sweep": toy.swept(FOX, seed=0, **axes)[0],
        "strengths": strip([over_strengths(row) for row in (FOX, CASTLE, ROBOT)]),
        "blocks": strip([[(weights, toy.with_blocks(row, weights)[0]) for weights in blocks] for row in (FOX, OWL)]),
        "over_time": strip([over_time(toy, row) for row in (OWL, ROBOT)]),
        "over_prompts": strip([over_prompts(toy, row) for row in (OWL, CASTLE)]),
        "by_masks": strip([by_masks(toy, *_both(words, BOOK, BLUE)) for words in ("house", "penguin")]),
        "pair": strip([pair(toy, row) for row in PAIRS]),
        "t_lora": strip([t_lora(toy, row) for row in T_LORAS]),
        "taking_turns": strip([taking_turns(toy, *rows) for rows in turns]),
    }


def save(picture: Image.Image, path: Path) -> None:
    """As the ending says: ComfyUI's templates want JPEG, and WebP is half as large."""
    if path.suffix == ".webp":
        picture.save(path, "WEBP", quality=80, method=6)
    else:
        picture.save(path, "JPEG", quality=70, optimize=True, progressive=True, subsampling=1)
