"""The faders of the block weights desk: one for each block of a layout, and what a weights text sets each to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...lora_math import families
from ...lora_math.blocks import FAMILIES, Block, BlockTextError, Layout, Location, Rule, builtin_layout
from ...lora_math.blocks.grammar import check_names
from ...lora_math.blocks.layout import OTHER, TE
from ..fitting.block_spec import BlockSpec


@dataclass(frozen=True)
class Fader:
    """name: as reports have it (``IN04``); rule: the left side that sets it alone (``IN4``); place: where its plain weights are."""

    name: str
    rule: str
    group: str
    place: Location


def faders(layout: Layout) -> tuple[Fader, ...]:
    """The blocks in execution order, those beside the main numbering, the text encoders one by one, and the rest."""
    blocks = [Fader(b.name, f"{b.group}{b.index}", b.group, _place(b)) for b in (*layout.blocks, *layout.aux)]
    encoders = [
        Fader(f"{TE}:{name}", f"{TE}:{name}", TE, Location(f"{TE}:{name}.other", f"{TE}:{name}", None))
        for name in layout.encoders
    ]
    unknown = Fader(TE, TE, TE, Location(f"{TE}:any.other", f"{TE}:any", None))
    return (*blocks, *(encoders or [unknown]), Fader(OTHER, OTHER, OTHER, Location(f"{OTHER}:", OTHER, None)))


def _place(block: Block) -> Location:
    return Location(block.name, block.group, block.index)


def groups(layout: Layout) -> list[dict]:
    """The faders as the browser gets them: ``[{"name": "IN", "blocks": [{"name", "rule"}]}]``."""
    found: dict[str, list[dict]] = {}
    for fader in faders(layout):
        found.setdefault(fader.group, []).append({"name": fader.name, "rule": fader.rule})
    return [{"name": name, "blocks": blocks} for name, blocks in found.items()]


def settings(spec: BlockSpec, layout: Layout) -> dict:
    """What a text means on a layout. Raises BlockTextError.

    ``values``: fader -> weight, before ``invert``. ``fine``: fader -> rules that set a part of it, or a layer of an encoder, to
    something else. ``plain``: whether the values are all that the text says, so that they may be written anew from the faders.
    """
    weights = replace(spec, invert=False).read(layout)
    resolved = weights.resolve(layout)
    values = {fader.name: resolved.at(fader.place) for fader in faders(layout)}
    parts = [rule for rule in weights.rules if _sets_a_part(rule)]
    fine: dict[str, list[str]] = {}
    for rule in parts:
        for name in _touched(rule, layout):
            fine.setdefault(name, []).append(str(rule))
    return {
        "family": layout.family,
        "text": str(weights),
        "values": values,
        "fine": fine,
        "plain": not parts and not check_names(weights, layout),
        "notes": list(weights.notes),
    }


def _sets_a_part(rule: Rule) -> bool:
    selector = rule.selector
    in_encoder = selector.kind == "te" and (selector.layer != "" or bool(selector.spans))
    in_other = selector.kind == "other" and bool(selector.name)
    return bool(selector.filters) or selector.sub is not None or in_encoder or in_other


def _touched(rule: Rule, layout: Layout) -> Iterable[str]:
    selector = rule.selector
    if selector.kind == "other":
        return [OTHER]
    if selector.kind == "te":
        return [f"{TE}:{name}" for name in layout.encoders if selector.name in ("", name)]
    return [block.name for block in selector.blocks(layout)]


def guess_layout(text: str, seed: int = 0) -> Layout:
    """For a text with no model in sight: the first family that reads it without remarks, else the first that reads it at all."""
    readers: list[Layout] = []
    for family in (families.DEFAULT, families.FLUX, *FAMILIES):
        layout = builtin_layout(family)
        try:
            weights = BlockSpec(text, family, seed).read(layout)
        except BlockTextError:
            continue
        if not check_names(weights, layout):
            return layout
        readers.append(layout)
    return readers[0] if readers else builtin_layout(families.DEFAULT)
