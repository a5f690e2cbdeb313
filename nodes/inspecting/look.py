"""LoRA files as numbers, block by block, beside whatever model is there; kept, so that only strengths are counted anew."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...lora_math.algebra.change import Term
from ...lora_math.algebra.sketch import leading_svd
from ...lora_math.baking import Layer, layers_by_name
from ...lora_math.blocks import Layout
from ...lora_math.blocks.layout import OTHER
from ...lora_math.errors import StrataError
from ...lora_math.inspecting.layers import LayerNumbers, measure
from ...lora_math.inspecting.one import Numbers, numbers
from ...lora_math.inspecting.several import MAX_LORAS, Meeting, Meetings, Together, epochs, meet, together
from ...lora_math.module_blocks import block_of
from ...lora_math.named_layout import layout_by_names
from ...lora_math.reading.state_dict import Entry
from ..comfy.library import Lora
from ..comfy.saving import weight_of
from ..comfy.targets import Target, Targets, taken_apart
from ..desk.words import Fader, faders
from ..fitting.amounts import Amount, row_of
from ..fitting.block_spec import layout_for
from ..fitting.fit import fit, is_text_encoder
from ..saving.gather import placed
from ..stack import StackEntry

# The model's and the text encoders'.
Sides = tuple[Targets | None, Targets | None]
NO_SIDES: Sides = (None, None)
KEPT_FILES, KEPT_MEETINGS = 32, 16
# How many layers are held against the model's own weights.
AGAINST = 12

_lock = threading.Lock()
_measured: OrderedDict[str, list[LayerNumbers]] = OrderedDict()
_met: OrderedDict[tuple, tuple[Sides, Meetings, list]] = OrderedDict()


@dataclass(frozen=True, eq=False)
class One:
    """A LoRA of the stack. order: its blocks as the model runs them; relative: block -> norm of its change at strength 1 over that of
    the model's weights there, where a model is known; fits: (tensors that fit, all that are meant for what is there), None without.
    against: (layer, sigma 1 of its change over sigma 1 of the model's weight), the largest first."""

    name: str
    lora: Lora
    strength_model: float
    strength_clip: float
    numbers: Numbers
    order: tuple[str, ...]
    relative: dict[str, float]
    fits: tuple[int, int] | None
    against: tuple[tuple[LayerNumbers, float], ...] = ()

    @property
    def short(self) -> str:
        return self.name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0] or self.name


@dataclass(frozen=True, eq=False)
class Several:
    """All of a stack at its strengths. drift: for each training that is there at several times, its LoRAs in order."""

    loras: tuple[One, ...]
    whole: Together
    blocks: dict[str, Together]
    compared: int
    alone: int
    unknown: int
    drift: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


def look_at(entry: StackEntry, sides: Sides, owners=(None, None), tick: Callable[[], None] = lambda: None) -> One:
    """owners: the MODEL and CLIP themselves, whose weights are read for the few layers that stand out. Raises StrataError."""
    name, strength_model, strength_clip = entry
    lora = entry.opened()
    layers = _layers(lora, tick)
    layout = _layout(lora, sides)
    rows, amounts, used = _rows(lora, layout, sides)
    found = numbers(layers, [rows[id(e)] for e in lora.contents.entries])
    order = _order(layout, found.blocks)
    relative = {row: amount.relative for row, amount in amounts.items() if amount.relative is not None}
    against = _against(lora, layers, sides, owners, tick)
    return One(name, lora, strength_model, strength_clip, found, order, relative, used, against)


def _layers(lora: Lora, tick: Callable[[], None]) -> list[LayerNumbers]:
    with _lock:
        if lora.identity in _measured:
            _measured.move_to_end(lora.identity)
            return _measured[lora.identity]
    found = measure(lora.contents.entries, lora.broken, tick)
    with _lock:
        _measured[lora.identity] = found
        while len(_measured) > KEPT_FILES:
            _measured.popitem(last=False)
    return found


def _layout(lora: Lora, sides: Sides) -> Layout | None:
    if sides != NO_SIDES:
        return layout_for(*sides)
    return layout_by_names(lora.contents.entries, lora.families if lora.family is None else (lora.family,))


def _rows(lora: Lora, layout: Layout | None, sides: Sides) -> tuple[dict[int, str], dict[str, Amount], tuple | None]:
    """(id of an entry -> its block, block -> amounts against the model, tensors that fit of those that are meant)."""
    entries = lora.contents.entries
    rows: dict[int, str] = {}
    amounts: dict[str, Amount] = defaultdict(Amount)
    fitting: set[int] = set()
    for side in sides:
        if side is not None:
            found = fit(lora, side)
            for target, entry in found.pieces:
                row = rows.setdefault(id(entry), row_of(layout.locate(target.key)))
                amounts[row].add(lora, entry, target, side)
                fitting.add(id(entry))
            fitting.update(map(id, found.repeated))
    for entry in entries:
        if id(entry) not in rows:
            by_name = OTHER if layout is None else block_of(entry.module, layout, entry.adapter.matrix_shape)
            rows[id(entry)] = by_name
    if sides == NO_SIDES:
        return rows, {}, None
    meant = [e for e in entries if sides[is_text_encoder(e)] is not None]
    used = sum(len(entry.keys) for entry in meant if id(entry) in fitting)
    return rows, amounts, (used, sum(len(entry.keys) for entry in meant))


def _order(layout: Layout | None, present) -> tuple[str, ...]:
    known = [] if layout is None else [fader.name for fader in faders(layout) if fader.name in present]
    return (*known, *(name for name in present if name not in known))


def _against(lora: Lora, layers: Sequence[LayerNumbers], sides: Sides, owners, tick) -> tuple:
    """The layers whose change may stretch an input the most, each against what the model's own weight does at most."""
    by_entry = {id(entry): layer for entry, layer in zip(lora.contents.entries, layers, strict=True)}
    candidates = []
    for side, owner in zip(sides, owners, strict=True):
        if side is None or owner is None:
            continue
        for target, entry in fit(lora, side).pieces:
            layer, own = by_entry[id(entry)], side.squared_norm(target)
            if layer.largest and own and len(target.shape) > 1:
                candidates.append((layer.largest / math.sqrt(own), layer, target, owner))
    candidates.sort(key=lambda found: -found[0])
    found, seen = [], set()
    for _, layer, target, owner in candidates:
        if len(found) == AGAINST:
            break
        if layer.module in seen:
            continue
        seen.add(layer.module)
        tick()
        key, part, _ = taken_apart(target.patch_key)
        weight = weight_of(owner, key)
        weight = weight if part is None else weight.narrow(*part)
        largest = float(leading_svd(weight.flatten(1), 1).s[0])
        if largest > 0:
            found.append((layer, layer.largest / largest))
    return tuple(sorted(found, key=lambda pair: -pair[1]))


# Several


def compare(ones: Sequence[One], entries: Sequence[StackEntry], sides: Sides, tick=lambda: None) -> Several:
    """ones: those of ``entries`` in order, at most MAX_LORAS."""
    if not 1 < len(ones) <= MAX_LORAS:
        raise StrataError(f"{len(ones)} LoRAs are compared, and it must be 2 to {MAX_LORAS}.")
    meetings, places = _meetings(ones, sides, tick)
    strengths, notes = _strengths(ones, entries, meetings.layers, places, sides)
    by_block: dict[str, list[int]] = defaultdict(list)
    for at, (_, block, _) in enumerate(places):
        by_block[block].append(at)
    order = _order(_layout(ones[0].lora, sides), by_block)
    blocks = {
        name: together([meetings.layers[i] for i in by_block[name]], [strengths[i] for i in by_block[name]], len(ones))
        for name in order
    }
    shared = sum(len(meeting.at) > 1 for meeting in meetings.layers)
    found = [tuple(group) for group in epochs([one.name for one in ones])]
    if not shared:
        notes.append(
            "no layer is in two of these LoRAs under one name"
            + (": connect the MODEL that they are for" if sides == NO_SIDES else "")
        )
    return Several(
        tuple(ones),
        together(meetings.layers, strengths, len(ones)),
        blocks,
        shared,
        len(meetings.layers) - shared,
        len(meetings.unknown),
        tuple(found),
        tuple(notes),
    )


def _meetings(ones: Sequence[One], sides: Sides, tick) -> tuple[Meetings, list[tuple[bool, str, str | None]]]:
    """What the LoRAs do to each weight at strength 1, and (whether it is a text encoder's, block, the model's key or None) of each."""
    known = (tuple(one.lora.identity for one in ones), *map(id, sides))
    with _lock:
        if known in _met:
            _met.move_to_end(known)
            return _met[known][1:]
    layers = _by_name(ones) if sides == NO_SIDES else _by_key(ones, sides)
    layout = _layout(ones[0].lora, sides)
    found = meet([layer for layer, _ in layers], tick)
    keys = {layer.module: key for layer, key in layers}
    places = [_place(meeting, keys[meeting.module], layout) for meeting in found.layers]
    with _lock:
        # It holds the sides, so that their ids are not another's.
        _met[known] = sides, found, places
        while len(_met) > KEPT_MEETINGS:
            _met.popitem(last=False)
    return found, places


def _place(meeting: Meeting, key: str | None, layout: Layout | None) -> tuple[bool, str, str | None]:
    if key is not None:
        row = row_of(layout.locate(key))
        return not key.startswith("diffusion_model."), row, key
    entry = Entry(meeting.name, "weight", None, ())
    return is_text_encoder(entry), OTHER if layout is None else block_of(meeting.name, layout), None


def _by_name(ones: Sequence[One]) -> list[tuple[Layer, None]]:
    sources = [
        [entry for entry in one.lora.contents.entries if not one.lora.broken.intersection(entry.keys)] for one in ones
    ]
    found = layers_by_name(sources)
    return [
        (Layer(f"{layer.module}\0{layer.parameter}", layer.parameter, layer.terms, None, None, layer.module), None)
        for layer in found
    ]


def _by_key(ones: Sequence[One], sides: Sides) -> list[tuple[Layer, str]]:
    """By the model's weights. Where one LoRA has a weight whole and another has it in parts, the parts are put into the whole."""
    found: list[tuple[Layer, str]] = []
    for side in sides:
        if side is None:
            continue
        by_weight: dict[str, dict[int, list]] = {}
        for at, one in enumerate(ones):
            for target, entry in fit(one.lora, side).pieces:
                if not one.lora.broken.intersection(entry.keys):
                    by_weight.setdefault(target.key, {}).setdefault(at, []).append((target, entry))
        for key, of in by_weight.items():
            cuts = {frozenset(_part(target) for target, _ in pieces) for pieces in of.values()}
            by_part: dict[str, tuple[dict[int, list[Term]], tuple]] = {}
            for at, pieces in of.items():
                for target, entry in pieces:
                    adapter, shape, part = target.of(entry.adapter), target.shape, _part(target)
                    if len(cuts) > 1:
                        part = ""
                        # What depends on the weight is named as such later.
                        with contextlib.suppress(StrataError):
                            adapter, shape = placed(adapter, target, side), side.shapes[key]
                    by_part.setdefault(part, ({}, shape))[0].setdefault(at, []).append((1.0, adapter))
            for part, (terms, shape) in by_part.items():
                found.append((Layer(f"{key}\0{part}", "weight", terms, shape, None, key), key))
    return found


def _part(target: Target) -> str:
    """Which part of its weight a target is, and in which order of rows; empty for all of it."""
    return "" if isinstance(target.patch_key, str) else repr(target.patch_key[1:])


def _strengths(ones, entries, meetings: Sequence[Meeting], places, sides: Sides) -> tuple[list[list[float]], list[str]]:
    notes = []
    layout = _layout(ones[0].lora, sides)
    at_block: dict[str, Fader] = {} if layout is None else {fader.name: fader for fader in faders(layout)}
    blocks = []
    for one, entry in zip(ones, entries, strict=True):
        resolved = None
        if entry.block_weights is not None and layout is not None:
            resolved = entry.block_weights.read(layout).resolve(layout)
        elif entry.block_weights is not None:
            notes.append(f"{one.name}: its block weights need the MODEL, and are not counted")
        if entry.keyframes is not None:
            notes.append(f"{one.name}: its strength varies over time; it counts at full strength")
        if entry.mask is not None:
            notes.append(f"{one.name}: its mask is not counted; it counts as where the mask is white")
        blocks.append(resolved)

    def coefficient(at: int, is_clip: bool, block: str, key: str | None) -> float:
        strength = ones[at].strength_clip if is_clip else ones[at].strength_model
        if blocks[at] is None:
            return strength
        if key is not None:
            return strength * blocks[at].weight(key)
        return strength * (blocks[at].at(at_block[block].place) if block in at_block else 1.0)

    found = [[coefficient(at, *place) for at in meeting.at] for meeting, place in zip(meetings, places, strict=True)]
    return found, notes
