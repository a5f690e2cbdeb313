"""One LoRA's view of what is connected: the diffusion model, or the text encoders."""

from __future__ import annotations

from dataclasses import dataclass

from ...lora_math.blocks import ResolvedWeights
from ..comfy.targets import Targets
from .fit import EMPTY, Fit


@dataclass(frozen=True, eq=False)
class Side:
    """The model or the text encoders as one LoRA meets them. ``fit`` is EMPTY and ``targets`` None where nothing is connected.

    hidden: whether the LoRA's mask is black everywhere.
    """

    fit: Fit
    targets: Targets | None
    strength: float
    blocks: ResolvedWeights | None = None
    hidden: bool = False

    def coefficient(self, key: str) -> float:
        """What the LoRA's delta of this weight is multiplied by: the strength, times the weight of its block."""
        if self.hidden:
            return 0.0
        return self.strength if self.blocks is None else self.strength * self.blocks.weight(key)

    def acts(self) -> bool | None:
        """Whether the deltas are multiplied by something else than 0: all of them True, none of them False; None where it may depend
        on the block."""
        if self.hidden or self.strength == 0:
            return False
        return True if self.blocks is None or self.strength * self.blocks.weights.smallest() != 0 else None


NOTHING = Side(EMPTY, None, 0.0)
