"""Where the LoRAs of a cell change the model: blocks of a LoRA, and the size of its change in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...lora_math.blocks import Layout, ResolvedWeights
from ...lora_math.errors import StrataError
from ..comfy.targets import clip_targets, model_targets
from ..fitting.amounts import row_of
from ..fitting.block_spec import layout_for
from ..fitting.fit import fit
from ..stack import StackEntry
from .plan import rows_key


@dataclass(eq=False)
class Blocks:
    """The blocks of a MODEL and a CLIP, either of which may be None."""

    model: object | None
    clip: object | None
    layout: Layout | None = None
    _known: dict[tuple, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self):
        self.sides = (
            None if self.model is None else model_targets(self.model),
            None if self.clip is None else clip_targets(self.clip),
        )
        self.layout = layout_for(*self.sides) if any(side is not None for side in self.sides) else None

    def of(self, row: StackEntry) -> list[str]:
        """The blocks that a LoRA changes, in the order in which the model runs, then encoders and the rest. Raises StrataError."""
        lora = row.opened()
        found = {
            row_of(self.layout.locate(target.key))
            for side in self.sides
            if side is not None
            for target, _ in fit(lora, side).pieces
        }
        ordered = [block.name for block in (*self.layout.blocks, *self.layout.aux) if block.name in found]
        return [*ordered, *sorted(found - set(ordered), key=lambda name: (not name.startswith("TE"), name))]

    def energies(self, row: StackEntry) -> Mapping[str, float]:
        """Block -> squared Frobenius norm of the change there with this strength and these block weights; of what can be known without the
        weight. Empty for a file that cannot be read: the cell says why."""
        key = rows_key([row])
        if key not in self._known:
            self._known[key] = self._energies(row)
        return self._known[key]

    def _energies(self, row: StackEntry) -> Mapping[str, float]:
        try:
            lora = row.opened()
        except StrataError:
            return {}
        weights = None
        if row.block_weights is not None:
            weights = ResolvedWeights(row.block_weights.read(self.layout), self.layout)
        found: dict[str, float] = {}
        for side, strength in zip(self.sides, row[1:], strict=True):
            for target, entry in fit(lora, side).pieces if side is not None and strength else ():
                energy = lora.energy(entry, target.shape, target.part)
                if energy is None:
                    continue
                factor = strength * (1.0 if weights is None else weights.weight(target.key))
                name = row_of(self.layout.locate(target.key))
                found[name] = found.get(name, 0.0) + energy * factor**2
        return found

    def together(self, rows) -> dict[str, float]:
        """The same of several LoRAs, added up."""
        found: dict[str, float] = {}
        for row in rows:
            for name, energy in self.energies(row).items():
                found[name] = found.get(name, 0.0) + energy
        return found
