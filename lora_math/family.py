"""Which model family a LoRA was trained for, from module names and widths first and the header second.

A wrong family would refuse a good file, so whatever does not settle it stays open. What is compared lies in ``families``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from . import families
from .families import Family
from .module_blocks import in_underscores, place_in
from .names import is_text_encoder, read
from .reading.state_dict import Entry

__all__ = [
    "Guess",
    "candidates",
    "component",
    "detect",
    "guess",
    "guess_of",
    "is_text_encoder",
]

# The least hidden width of a published model: what is narrower tells nothing.
SMALLEST = 1024
# Layer body -> (out, in * kernel), None where the tensors do not say.
Shapes = Mapping[str, tuple[int, int] | None]


def component(module: str) -> str:
    """The part of the pipeline that a module name speaks of: "model" or a text encoder's name."""
    name = read(module)
    if not name.text:
        return "model"
    if name.encoder is not None:
        return name.encoder
    return "text encoder" if name.number is None else f"text encoder {name.number}"


class Guess(NamedTuple):
    """families: those that remain possible, the most common one first, empty when nothing is known: any other is wrong for the file.
    family: the one that it is, or in all likelihood; None where that is open."""

    families: tuple[str, ...] = ()
    family: str | None = None


def detect(entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> str | None:
    """The family, or None when names, widths and header do not settle it."""
    return guess(entries, metadata).family


def candidates(entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The families that remain possible, the most common one first; empty when nothing is known."""
    return guess(entries, metadata).families


def guess(entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> Guess:
    """What a file may have been trained for.

    Names and widths come first. Only where they leave something open does the header tell, and a header that says something else than
    they allow is a stranger's.
    """
    shapes: dict[str, tuple[int, int] | None] = {}
    encoders: set[int | None] = set()
    for entry in entries:
        name = read(entry.module)
        if name.text:
            encoders.add(name.number)
        elif entry.parameter == "weight":
            shapes[name.body] = entry.adapter.matrix_shape
    return guess_of(shapes, 2 in encoders, metadata)


def guess_of(shapes: Shapes, second_encoder: bool = False, metadata: Mapping[str, str] | None = None) -> Guess:
    """``guess`` for the bodies of a diffusion model's layers and the shapes of their weights."""
    if not shapes:
        return Guess()
    # A file repeats its few kinds of layer in every block.
    kinds = {_NUMBER.sub("_0", body) for body in shapes}
    for pattern, family in families.ONLY:
        if any(_compiled(pattern).search(kind) for kind in kinds):
            return Guess() if family is None else Guess((family,), family)
    bodies = shapes.keys() if any(_UNET.match(kind) for kind in kinds) else kinds
    possible = [row for row in families.TABLE if _is_possible(row, bodies, shapes, second_encoder)]
    names = tuple(row.name for row in possible)
    header = _from_header(metadata or {})
    if header is not None and (not names or header in names):
        return Guess((header,), header)
    whole = tuple(row.name for row in possible if any(_is_whole(lists, shapes) for lists in _depths(row)))
    names = whole or names
    own = [row.name for row in possible if row.signs.own and any(_compiled(row.signs.own).search(b) for b in bodies)]
    likely = names if len(names) == 1 else [name for name in own if name in names]
    return Guess(names, likely[0] if len(likely) == 1 else None)


_NUMBER = re.compile(r"_\d+(?=_)")
_UNET = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks)_")


def _is_possible(row: Family, bodies: Iterable[str], shapes: Shapes, second_encoder: bool) -> bool:
    signs = row.signs
    if not signs.layers or (second_encoder and len(row.encoders) == 1 and "clip" in row.encoders[0]):
        return False
    if not any(_compiled(signs.layers).search(body) for body in bodies):
        return False
    if signs.lacks and any(_compiled(signs.lacks).search(body) for body in bodies):
        return False
    known = [(body, shape) for body, shape in shapes.items() if shape is not None and shape[1] > 0]
    for layers, widths in signs.inputs:
        if any(shape[1] not in widths for body, shape in known if _compiled(layers).search(body)):
            return False
    for layers, least, most in signs.ratios:
        if any(not least <= shape[0] / shape[1] <= most for body, shape in known if _compiled(layers).search(body)):
            return False
    hidden = (shape[1] for body, shape in known if signs.hidden and _compiled(signs.hidden).search(body))
    widths = {width for width in hidden if width >= SMALLEST}
    return any(
        widths <= {width} and _goes_as_far(lists, shapes)
        for width, lists in zip(row.depths or (None,), _depths(row), strict=True)
        if width is not None or not widths
    )


def _depths(row: Family) -> list[Mapping[str, int]]:
    """The lengths of the family's lists, for each of its widths."""
    return [{**row.lists, **change} for change in row.depths.values()] or [row.lists]


def _goes_as_far(lists: Mapping[str, int], shapes: Shapes) -> bool:
    """Whether a model with these lists has every numbered block of the file."""
    return all(max(numbers) < count for count, numbers in _numbers(lists, shapes))


def _is_whole(lists: Mapping[str, int], shapes: Shapes) -> bool:
    """Whether the file has every block of each main list that it has anything of: then it is this model that it was made on."""
    found = list(_numbers(lists, shapes))
    return bool(found) and all(len(numbers) == count and max(numbers) == count - 1 for count, numbers in found)


def _numbers(lists: Mapping[str, int], shapes: Shapes) -> Iterator[tuple[int, set[int]]]:
    """(how many blocks the list has, the numbers of the file's) for the lists that the file has blocks of."""
    paths = in_underscores(lists)
    numbers: dict[str, set[int]] = {}
    for body in shapes:
        place = place_in(body, paths)
        if place is not None:
            numbers.setdefault(place[0], set()).add(place[1])
    counts = {path.replace(".", "_"): count for path, count in lists.items()}
    return ((counts[path], found) for path, found in numbers.items())


def _from_header(metadata: Mapping[str, str]) -> str | None:
    text = str(metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or "")
    text = text[:200].lower().replace("_", "-")
    if not text:
        return None
    return next((row.name for row in families.TABLE if row.header and _compiled(row.header).search(text)), None)


@cache
def _compiled(pattern: str) -> re.Pattern:
    return re.compile(pattern)
