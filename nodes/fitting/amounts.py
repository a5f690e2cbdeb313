"""How much of a LoRA lies in a block: tensors, its change's squared norm, and that of the model's own weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from ...lora_math.blocks import Layout, Location
from ...lora_math.blocks.layout import OTHER, TE
from ...lora_math.reading.state_dict import Entry
from ..comfy.library import Lora
from ..comfy.targets import Target, Targets
from .fit import Fit
from .side import Side


@dataclass
class Amount:
    """energy: squared Frobenius norm of the change at strength 1, of what can be known without the weight. own: that of the weights
    that change; None as soon as that, or the change itself, cannot be known. keys: the weights."""

    tensors: int = 0
    energy: float = 0.0
    own: float | None = 0.0
    keys: set[str] = field(default_factory=set)

    def add(self, lora: Lora, entry: Entry, target: Target, targets: Targets) -> None:
        energy, own = lora.energy(entry, target.shape, target.part), targets.squared_norm(target)
        known = energy is not None
        self.keys.add(target.key)
        self.tensors += len(entry.keys)
        self.energy += energy if known else 0.0
        self.own = self.own + own if known and own is not None and self.own is not None else None

    @property
    def relative(self) -> float | None:
        """The change at strength 1 as a fraction of the weights that it changes."""
        return math.sqrt(self.energy / self.own) if self.own else None


def row_of(place: Location) -> str:
    """The row that a place counts in where a person looks: its block, a whole text encoder, or all of what lies beside the blocks."""
    return place.group if place.group.startswith(f"{TE}:") or place.group == OTHER else place.block


_known: WeakKeyDictionary[Fit, dict[Layout, Mapping[str, Amount]]] = WeakKeyDictionary()


def by_block(lora: Lora, side: Side, layout: Layout) -> Mapping[str, Amount]:
    """Block -> what the LoRA has there; all of OTHER and of an encoder's embeddings in one row each. Whatever the strengths, so a moved
    slider finds it done. The weights were measured before, or are never."""
    if side.targets is None:
        return {}
    of_fit = _known.setdefault(side.fit, {})
    if layout not in of_fit:
        rows: dict[str, Amount] = defaultdict(Amount)
        for target, entry in side.fit.pieces:
            place = layout.locate(target.key)
            rows[place.group if place.index is None else place.block].add(lora, entry, target, side.targets)
        of_fit[layout] = dict(rows)
    return of_fit[layout]
