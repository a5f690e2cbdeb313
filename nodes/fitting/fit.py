"""How a LoRA file fits a loaded model or a set of text encoders: found once for the pair, before anything is patched."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from ...lora_math.adapters import Adapter
from ...lora_math.reading.state_dict import Entry
from ..comfy.library import Lora
from ..comfy.targets import Key, Target, Targets, taken_apart

# (axis, start, length) of a weight, None for all of it.
Span = tuple[int, int, int] | None


@dataclass(frozen=True, eq=False)
class Fit:
    """pieces: what can be applied, in the file's order, an entry once for every weight that it changes; refused: entries that name
    a weight but cannot change it, with the reason; strangers: entries that name nothing here; repeated: entries whose weight another
    module of the file changes already, under another name for the same layer."""

    pieces: tuple[tuple[Target, Entry], ...]
    refused: tuple[tuple[Entry, str], ...]
    strangers: tuple[Entry, ...]
    repeated: tuple[Entry, ...] = ()
    _grouped: dict[frozenset[str], dict] = field(default_factory=dict, repr=False)
    _awaiting: dict[frozenset[str], list] = field(default_factory=dict, repr=False)

    def adapters(self, without: frozenset[str] = frozenset()) -> dict:
        """patch key -> its adapters in order. ``without``: file keys whose entries are left out (they hold NaN or Inf)."""
        if without not in self._grouped:
            grouped: dict = {}
            awaiting: dict[Entry, list[tuple[Key, Adapter]]] = {}
            for target, entry in self.pieces:
                if not without.intersection(entry.keys):
                    adapter = target.of(entry.adapter)
                    grouped.setdefault(target.patch_key, []).append(adapter)
                    if adapter.awaits:
                        awaiting.setdefault(entry, []).append((target.patch_key, adapter))
            self._grouped[without], self._awaiting[without] = grouped, list(awaiting.values())
        return self._grouped[without]

    def awaiting(self, without: frozenset[str] = frozenset()) -> list[list[tuple[Key, Adapter]]]:
        """Those of ``adapters`` that have to know something of each other's weights, together."""
        self.adapters(without)
        return self._awaiting[without]


EMPTY = Fit((), (), ())

# A weak dictionary that another thread adds to cannot be gone through.
_lock = threading.Lock()
_known: WeakKeyDictionary[Lora, WeakKeyDictionary[Targets, Fit]] = WeakKeyDictionary()


def fit(lora: Lora, targets: Targets) -> Fit:
    """The fit of a file on these targets, kept while both live."""
    with _lock:
        found = _known.setdefault(lora, WeakKeyDictionary()).get(targets)
    if found is None:
        found = match(lora.contents.entries, targets)
        with _lock:
            found = _known[lora].setdefault(targets, found)
    return found


def fits_of(identity: str) -> list[tuple[Targets, Fit]]:
    """Everything loaded that the file of this identity was fitted to, with the fit."""
    with _lock:
        return [pair for lora, fits in _known.items() if lora.identity == identity for pair in fits.items()]


def match(entries: Iterable[Entry], targets: Targets) -> Fit:
    """The fit of any entries, computed anew."""
    accepted: dict[Entry, tuple[Target, ...]] = {}
    refused, strangers, repeated = [], [], []
    owners: dict[str, list[tuple[Span, Entry]]] = {}
    for entry in entries:
        adapter = entry.adapter
        found = targets.find(
            entry.module, entry.parameter, lambda shape, adapter=adapter: adapter.mismatch(shape) is None
        )
        if not found:
            strangers.append(entry)
            continue
        reason = next((reason for target in found if (reason := _refusal(adapter, target)) is not None), None)
        if reason is not None:
            refused.append((entry, reason))
            continue
        others = dict.fromkeys(other for target in found for other in _others(target, entry, owners))
        # SimpleTuner writes q, k and v, untrained, beside a trained layer for the three.
        if others and (adapter.is_untrained or not all(other.adapter.is_untrained for other in others)):
            repeated.append(entry)
            continue
        for other in others:
            if accepted.pop(other, None) is not None:
                repeated.append(other)
        accepted[entry] = found
        for target in found:
            name, span, _ = taken_apart(target.patch_key)
            owners.setdefault(name, []).append((span, entry))
    for entry, reason in _half_resized(accepted, targets).items():
        del accepted[entry]
        refused.append((entry, reason))
    pieces = ((target, entry) for entry, found in accepted.items() for target in found)
    return Fit(tuple(pieces), tuple(refused), tuple(strangers), tuple(repeated))


def _others(target: Target, entry: Entry, owners: Mapping[str, Sequence[tuple[Span, Entry]]]) -> list[Entry]:
    """Entries of other modules that change some of the same numbers: the layer stands in the file in several spellings."""
    name, span, _ = taken_apart(target.patch_key)
    return [other for where, other in owners.get(name, ()) if other.module != entry.module and _overlap(span, where)]


def _overlap(one: Span, other: Span) -> bool:
    if one is None or other is None:
        return True
    return one[0] != other[0] or (one[1] < other[1] + other[2] and other[1] < one[1] + one[2])


def _refusal(adapter: Adapter, target: Target) -> str | None:
    part = target.of(adapter)
    if part is None:
        return f"{adapter.name} changes as one what this model has in parts, and cannot be cut"
    adapter = part
    if adapter.shape_after is not None and not isinstance(target.patch_key, str):
        return "it widens a weight of which it holds only a part"
    return adapter.mismatch(target.shape)


def _half_resized(accepted: Mapping[Entry, Sequence[Target]], targets: Targets) -> dict[Entry, str]:
    """Entries that would leave a layer with one number of outputs in its weight and another in its bias, with the reason."""
    after: dict[str, tuple[int, Entry]] = {}
    for entry, found in accepted.items():
        for target in found:
            shape = target.of(entry.adapter).shape_after
            if shape and shape[0] != target.shape[0]:
                after[target.key] = shape[0], entry
    refused = {}
    for key, (outputs, entry) in after.items():
        module, _, parameter = key.rpartition(".")
        other = f"{module}.{'bias' if parameter == 'weight' else 'weight'}"
        there = after[other][0] if other in after else targets.shapes.get(other, (outputs,))[0]
        if there != outputs:
            refused[entry] = f"its {parameter} would have {outputs} outputs, and {other.rpartition('.')[2]} has {there}"
    return refused


def text_encoder_of(target: Target) -> str:
    """Which text encoder a CLIP weight belongs to: ``clip_l``, ``t5xxl``."""
    return target.key.split(".", 1)[0]


def count(entries: Iterable[Entry]) -> int:
    """Tensors of the file that these entries came from; an entry that changes several weights counts once."""
    return sum(len(entry.keys) for entry in set(entries))


def is_text_encoder(entry: Entry) -> bool:
    return entry.is_text_encoder
