"""Layouts for use without a model, with the counts that core fixes or that the published checkpoints have: from the table of families."""

from __future__ import annotations

from dataclasses import replace

from .. import families
from .errors import BlockTextError
from .groups import AUX, MAIN
from .layout import Block, Layout, make_blocks, te_blocks

FAMILIES = tuple(family.name for family in families.TABLE if "others" not in family.gaps)


def builtin_layout(family: str, width: int | None = None) -> Layout:
    """The usual layout of a family, or of its model of this hidden width; of its largest common model where that is none of its widths.

    Raises BlockTextError if there is no such family.
    """
    if family not in FAMILIES:
        raise BlockTextError(f"There is no model family {family!r}. Known families: {', '.join(FAMILIES)}.")
    row = families.FAMILIES[family]
    lists = {**row.lists, **row.depths.get(width, {})}
    main = [path for path in lists if path in MAIN]
    aux = [path for path in lists if path in AUX]
    return Layout(
        tuple(b for path in main for b in make_blocks(path, MAIN[path], range(lists[path]), False, row.word)),
        tuple(b for path in aux for b in make_blocks(path, AUX[path], range(lists[path]), True)),
        tuple(
            block
            for name in row.encoders
            for block in te_blocks(name, families.ENCODERS[name].path, range(families.ENCODERS[name].depth))
        ),
        row.encoders,
        row.others,
        family,
        styles={main[0]: row.style},
    )


def resized(layout: Layout, counts: dict[str, int]) -> Layout:
    """The same family in another depth: ``counts`` says how many blocks of which letters."""
    word = families.FAMILIES[layout.family].word if layout.family in families.FAMILIES else ""

    def of(blocks: tuple[Block, ...], aux: bool) -> tuple[Block, ...]:
        found: list[Block] = []
        for letters in dict.fromkeys(block.group for block in blocks):
            own = [block for block in blocks if block.group == letters]
            path = own[0].prefix[:-1].rsplit(".", 1)[0]
            wanted = counts.get(letters, len(own))
            found += own if letters == "M" else make_blocks(path, letters, range(wanted), aux, "" if aux else word)
        return tuple(found)

    return replace(layout, blocks=of(layout.blocks, False), aux=of(layout.aux, True))
