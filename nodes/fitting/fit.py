"""How a LoRA file fits a loaded model or a set of text encoders: found once for the pair, before anything is patched."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from ...lora_math import family
from ...lora_math.adapters import Adapter
from ...lora_math.reading.state_dict import Entry
from ..comfy.library import Lora
from ..comfy.targets import Target, Targets


@dataclass(frozen=True, eq=False)
class Fit:
    """pieces: what can be applied, in the file's order, an entry once for every weight that it changes; refused: entries that name
    a weight but cannot change it, with the reason; strangers: entries that name nothing here."""

    pieces: tuple[tuple[Target, Entry], ...]
    refused: tuple[tuple[Entry, str], ...]
    strangers: tuple[Entry, ...]
    _grouped: dict[frozenset[str], dict] = field(default_factory=dict, repr=False)

    def adapters(self, without: frozenset[str] = frozenset()) -> dict:
        """patch key -> its adapters in order. ``without``: file keys whose entries are left out (they hold NaN or Inf)."""
        if without not in self._grouped:
            grouped: dict = {}
            for target, entry in self.pieces:
                if not without.intersection(entry.keys):
                    grouped.setdefault(target.patch_key, []).append(target.of(entry.adapter))
            self._grouped[without] = grouped
        return self._grouped[without]


EMPTY = Fit((), (), ())

_lock = threading.Lock()  # a weak dictionary that another thread adds to cannot be gone through
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
    pieces, refused, strangers = [], [], []
    for entry in entries:
        adapter = entry.adapter
        found = targets.find(
            entry.module, entry.parameter, lambda shape, adapter=adapter: adapter.mismatch(shape) is None
        )
        if not found:
            strangers.append(entry)
            continue
        reason = next((reason for target in found if (reason := _refusal(adapter, target)) is not None), None)
        if reason is None:
            pieces.extend((target, entry) for target in found)
        else:
            refused.append((entry, reason))
    return Fit(tuple(pieces), tuple(refused), tuple(strangers))


def _refusal(adapter: Adapter, target: Target) -> str | None:
    part = target.of(adapter)
    if part is None:
        return f"{adapter.name} changes as one what this model has in parts, and cannot be cut"
    adapter = part
    if adapter.shape_after is not None and not isinstance(target.patch_key, str):
        return "it widens a weight of which it holds only a part"
    return adapter.mismatch(target.shape)


def text_encoder_of(target: Target) -> str:
    """Which text encoder a CLIP weight belongs to: ``clip_l``, ``t5xxl``."""
    return target.key.split(".", 1)[0]


def count(entries: Iterable[Entry]) -> int:
    """Tensors of the file that these entries came from; an entry that changes several weights counts once."""
    return sum(len(entry.keys) for entry in {id(entry): entry for entry in entries}.values())


def is_text_encoder(entry: Entry) -> bool:
    return family.is_text_encoder(entry.module)
