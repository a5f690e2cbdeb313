"""How much of a LoRA lies in a block: tensors, its change's squared norm, and that of the model's own weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...lora_math.state_dict import Entry
from .library import Lora
from .targets import Target, Targets


@dataclass
class Amount:
    """energy: squared Frobenius norm of the change at strength 1, of what can be known without the weight. own: that of the weights
    that change; None as soon as that, or the change itself, cannot be known."""

    tensors: int = 0
    energy: float = 0.0
    own: float | None = 0.0

    def add(self, lora: Lora, entry: Entry, target: Target, targets: Targets) -> None:
        energy, own = lora.energy(entry, target.shape, target.part), targets.squared_norm(target)
        known = energy is not None
        self.tensors += len(entry.keys)
        self.energy += energy if known else 0.0
        self.own = self.own + own if known and own is not None and self.own is not None else None

    @property
    def relative(self) -> float | None:
        """The change at strength 1 as a fraction of the weights that it changes."""
        return math.sqrt(self.energy / self.own) if self.own else None
