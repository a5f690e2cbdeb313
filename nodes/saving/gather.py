"""Every layer that a stack, or a freshly trained LoRA, changes, as the loaded model has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from ...lora_math.adapters import Adapter, Diff, LoRA
from ...lora_math.algebra.change import Term
from ...lora_math.baking import Layer, check_file, check_strength, layers_by_name, once
from ...lora_math.blocks import Layout
from ...lora_math.choices import DIFFUSERS
from ...lora_math.errors import StrataError
from ...lora_math.reading.files import data_sha256
from ...lora_math.reading.state_dict import Entry
from ...lora_math.schedule import Moment
from ...lora_math.writing.header import Parent
from ...lora_math.writing.layouts import Naming
from ..comfy.library import Lora
from ..comfy.live import as_patches
from ..comfy.live_time import read_variation, strength_at
from ..comfy.saving import weight_of
from ..comfy.targets import Target, Targets, taken_apart
from ..fitting.block_spec import BlockSpec, layout_for, resolved
from ..fitting.fit import is_text_encoder, match
from ..stack import StackEntry


@dataclass(frozen=True, eq=False)
class Source:
    """One LoRA that goes in. keys: of its file; blocks: its block weights; over_time: how its strength varied, before a moment of that was
    chosen."""

    name: str
    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    keys: Mapping[str, object]
    strength_model: float
    strength_clip: float
    blocks: BlockSpec | None
    leftovers: Mapping[str, str]
    over_time: str
    parent: Parent


def sources_of(stack: Sequence[StackEntry], trained: Lora | None, moment: Moment | None = None) -> list[Source]:
    """trained: one more, at strength 1; moment: whose strengths are taken where they vary over time.

    Raises StrataError for files that cannot be read, broken numbers, and strengths over time that no moment tells.
    """
    found = []
    entries = [*stack, *([] if trained is None else [StackEntry(trained.name, 1.0, 1.0, lora=trained)])]
    for entry in entries:
        name, strength_model, strength_clip = entry
        over_time = ""
        if entry.keyframes is not None:
            strength, over_time = _at_moment(name, entry.keyframes, moment)
            strength_model *= strength
        strength_model, strength_clip = check_strength(name, strength_model), check_strength(name, strength_clip)
        if entry.mask is not None:
            raise StrataError(f"{name} has a mask, which no LoRA file can hold. Take the mask off before saving.")
        lora = entry.opened()
        check_file(name, lora.contents, lora.broken)
        keys = dict.fromkeys(key for of in lora.contents.entries for key in of.keys)
        found.append(
            Source(
                name,
                lora.contents.entries,
                lora.metadata,
                keys,
                strength_model,
                strength_clip,
                entry.block_weights,
                lora.contents.leftovers,
                over_time,
                Parent(name, lora.metadata, data_sha256(lora.path) if lora.path else "", lora.trigger_words),
            )
        )
    if not found:
        raise StrataError("Nothing is connected: connect a LORA_STACK or a LORA_MODEL to Save LoRA.")
    return found


def _at_moment(name: str, keyframes, moment: Moment | None) -> tuple[float, str]:
    """(what the model's strength is multiplied by, how it varied; empty where it did not)."""
    variation = read_variation(keyframes)
    if variation.constant is not None:
        return variation.constant, ""
    if moment is None:
        raise StrataError(
            f"{name} has a strength over time, which no LoRA file can hold. Write into 'moment', an advanced input, at which place in the "
            "sampling its strength shall be taken, such as 50%, or take the strength over time off."
        )
    try:
        return strength_at(variation, moment), str(variation)
    except StrataError as problem:
        raise StrataError(f"{name} at the moment {moment}: {problem}.") from None


@dataclass(frozen=True, eq=False)
class Gathered:
    """layers: what ``bake`` takes; blocks: (module, parameter) -> the block it lies in; refused, strangers: lines for the report."""

    layers: list[Layer]
    weights: list[float]
    blocks: dict[tuple[str, str], str]
    notes: list[str]


def gather(
    sources: Sequence[Source], model, clip, targets: tuple[Targets | None, Targets | None], naming: Naming
) -> Gathered:
    """Which weight each source changes, at its strengths and block weights. Raises StrataError where a source fits nothing that is
    connected, an entry names a weight that it cannot change, or block weights have no model to refer to."""
    weights = [source.strength_model if source.strength_model != 0 else source.strength_clip for source in sources]
    layout = layout_for(*targets)
    # The models as their weights are used, asked for only where something depends on them.
    owners = [cache(partial(as_patches, owner)) for owner in (model, clip)]
    by_key: dict[tuple[str, bool], dict[int, list[Term]]] = {}
    unconnected: list[dict[Entry, float]] = [{} for _ in sources]
    notes: list[str] = []
    for i, source in enumerate(sources):
        if weights[i] == 0:
            notes.append(f"{source.name}: both strengths are 0, so nothing of it is saved")
            continue
        blocks = None if source.blocks is None else resolved(source.blocks, layout)
        fitted = 0
        for clip_side, side in ((False, targets[0]), (True, targets[1])):
            entries = [entry for entry in source.entries if is_text_encoder(entry) == clip_side]
            strength = (source.strength_clip if clip_side else source.strength_model) / weights[i]
            if side is None:
                if entries and source.blocks is not None and not clip_side:
                    raise StrataError(
                        f"{source.name} has block weights: connect the MODEL that they are for to Save LoRA."
                    )
                weight = 1.0 if blocks is None or not entries else blocks.weights.of_text_encoders()
                if weight is None:
                    raise StrataError(
                        f"{source.name} has block weights for parts of its text encoders: connect the CLIP that they are for to Save LoRA."
                    )
                entries, repeated = once(entries)
                if repeated:
                    notes.append(
                        f"{source.name}: {len(repeated)} layers stand in it in several spellings, such as {repeated[0].module}: each "
                        "counts once"
                    )
                if strength * weight != 0:
                    unconnected[i] |= dict.fromkeys(entries, strength * weight)
                fitted += len(entries)
                continue
            found = match(entries, side)
            if found.refused:
                entry, reason = found.refused[0]
                raise StrataError(f"{source.name} does not fit this model: {entry.module}: {reason}.")
            if found.strangers:
                notes.append(
                    f"{source.name}: {len(found.strangers)} of its layers name nothing here, such as {found.strangers[0].module}"
                )
            fitted += len(found.pieces)
            for target, entry in found.pieces:
                coefficient = strength * (1.0 if blocks is None else blocks.weight(target.key))
                if coefficient != 0:
                    terms = by_key.setdefault((target.key, clip_side), {}).setdefault(i, [])
                    terms.append((coefficient, placed(target.of(entry.adapter), target, side)))
        if source.leftovers:
            key, reason = next(iter(source.leftovers.items()))
            notes.append(f"{source.name}: {len(source.leftovers)} tensors are not understood, such as {key} ({reason})")
        if not fitted:
            raise StrataError(f"{source.name} fits nothing that is connected: it was made for another model.")
    layers, places = [], {}
    known = tuple(None if side is None else Known(side, naming) for side in targets)
    encoders = 0 if targets[1] is None else len({key.split(".", 1)[0] for key in targets[1].shapes})
    for (key, clip_side), terms in by_key.items():
        side, owner = targets[clip_side], owners[clip_side]
        for (name, parameter), cut in named(naming, key, known[clip_side], encoders if clip_side else 0):
            layers.append(Layer(name, parameter, terms, side.shapes[key], _weight(owner, key), key, cut))
            places[name, parameter] = _block(layout, key)
    for layer in layers_by_name(unconnected, unconnected):
        layers.append(layer)
        places[layer.module, layer.parameter] = (
            "text encoders" if is_text_encoder(Entry(layer.module, "weight", None, ())) else "all layers"
        )
    return Gathered(layers, weights, places, notes)


def split(key: str) -> tuple[str, str]:
    """(module, parameter) of a state-dict key; what is neither weight nor bias is a module of its own name."""
    module, _, parameter = key.rpartition(".")
    return (module, parameter) if parameter in ("weight", "bias") else (key, "weight")


# Takes rows out of a tensor [out, ...], None for all.
Cut = Callable[[Tensor], Tensor] | None


class Known:
    """What ComfyUI knows the weights of a MODEL or CLIP by.

    whole: key -> names; parts: key -> (name, the rows it means) in order, where diffusers has as several layers what ComfyUI has as one,
    and the naming is diffusers'.
    """

    def __init__(self, side: Targets, naming: Naming):
        self.whole: dict[str, list[str]] = {}
        found: dict[str, dict[int, tuple[str, Cut, int]]] = {}
        for name, patch_key in side.names.items():
            key, part, rows = taken_apart(patch_key)
            if part is None and rows is None:
                self.whole.setdefault(key, []).append(name)
            elif naming.layout == DIFFUSERS and naming.is_diffusers(name):
                # Halves in the other order, which the same function puts back.
                if part is None:
                    found.setdefault(key, {}).setdefault(0, (name, rows, side.shapes[key][0]))
                elif rows is None and part[0] == 0:
                    found.setdefault(key, {}).setdefault(part[1], (name, partial(_rows, part[1], part[2]), part[2]))
        self.parts = {key: self._tiling(of, side.shapes[key][0]) for key, of in found.items()}

    @staticmethod
    def _tiling(found: Mapping[int, tuple[str, Cut, int]], total: int) -> list[tuple[str, Cut]]:
        """Empty where the parts leave rows out or overlap."""
        at, names = 0, []
        for start in sorted(found):
            name, cut, length = found[start]
            if start != at:
                return []
            names.append((name, cut))
            at += length
        return names if at == total else []


def _rows(start: int, length: int, tensor: Tensor) -> Tensor:
    return tensor[start : start + length]


def named(naming: Naming, key: str, known: Known, encoders: int) -> list[tuple[tuple[str, str], Cut]]:
    """((module in the file, parameter), its rows) of a state-dict key: one, or several where the file has it in parts.

    encoders: as ``Naming.module`` has it. Biases are never in parts: ComfyUI's loader drops those.
    """
    module, parameter = split(key)
    # ComfyUI knows such a one by its own name only.
    if module == key:
        return [((key, parameter), None)]
    parts = known.parts.get(key, ()) if parameter == "weight" else ()
    own = known.whole.get(f"{module}.weight", ())
    if parts and not any(map(naming.is_diffusers, own)):
        return [((name, parameter), cut) for name, cut in parts]
    if parameter == "bias" and known.parts.get(f"{module}.weight"):
        return [((module, parameter), None)]
    return [((naming.module(module, own, encoders), parameter), None)]


def placed(adapter: Adapter, target: Target, side: Targets) -> Adapter:
    """The adapter of a part of a weight as one of the whole weight: zeros elsewhere. Raises StrataError where it has no such form."""
    key, part, rows = taken_apart(target.patch_key)
    if part is None and rows is None:
        return adapter
    shape = side.shapes[key]
    low = None if adapter.is_product else adapter.low_rank()
    if adapter.is_product:
        # In the file's own type, which takes a quarter of float64's room, unless a core has to be multiplied in.
        up, down, scale = adapter.product(None if getattr(adapter, "mid", None) is None else torch.float64)
    elif low is not None:
        up, down, scale = low.up, low.down, 1.0
    elif adapter.needs_weight:
        raise StrataError(
            f"{target.key}: {adapter.name} changes a part of a weight by what is in it, which cannot be saved as one file."
        )
    else:
        delta = adapter.delta(torch.empty(target.shape), 1.0, torch.float64)
        whole = torch.zeros(shape, dtype=torch.float64)
        (whole if part is None else whole.narrow(*part)).copy_(delta if rows is None else rows(delta))
        return Diff(whole)
    up = up if rows is None else rows(up)
    if part is not None and part[0] == 0:
        whole = up.new_zeros(shape[0], up.shape[1])
        whole[part[1] : part[1] + part[2]] = up
        up = whole
    elif part is not None:
        whole = down.new_zeros(down.shape[0], shape[1], down.shape[1] // part[2])
        whole[:, part[1] : part[1] + part[2]] = down.unflatten(1, (part[2], -1))
        down = whole.flatten(1)
    return LoRA(up, down, None, scale)


def _weight(owner: Callable, key: str) -> Callable[[], Tensor]:
    return lambda: weight_of(owner(), key)


def _block(layout: Layout, key: str) -> str:
    place = layout.locate(key)
    return place.group if place.index is None else place.block
