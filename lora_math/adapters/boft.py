"""BOFT, orthogonal finetuning by a butterfly of rotations (Liu et al. 2023, arXiv 2311.06243), as LyCORIS has it (``modules/boft.py``).

W' = rescale * S_m ... S_1 W: stage i turns pairs of half blocks that lie 2^i half blocks apart. Each stage is OFT's Cayley rotation, with
the same limit ``alpha``. At other strengths every stage is S_s = I + s (S - I), as LyCORIS's own multiplier has it, and rescale_s =
1 + s (rescale - 1): a polynomial in s, W at 0, the trained weight at 1. Doubling the strength does not double the change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import StrataError
from ..layer import Layer
from .base import Adapter, register
from .matrices import show, wide
from .oft import OFT, cayley, rescale_and_limit
from .stored import Parts, Rule


@register
@dataclass(frozen=True, eq=False)
class BOFT(Adapter):
    """blocks [stages, k, b, b] with k * b outputs and even b; rescale [out] or None; turns: what ``prepared`` stores, S - I by block."""

    blocks: Tensor
    rescale: Tensor | None = None
    limit: float = 0.0
    turns: Tensor | None = None

    name = "BOFT"
    needs_weight = True
    is_linear = False
    # The names are those of OFT; a fourth axis of the blocks tells the two apart.
    suffixes = OFT.suffixes
    spelled = OFT.spelled

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> BOFT | None:
        if "oft_blocks" not in parts or parts["oft_blocks"].ndim != 4:
            return None
        blocks = parts.pop("oft_blocks")
        if blocks.shape[2] != blocks.shape[3] or blocks.shape[2] % 2:
            raise StrataError(
                f"its oft_blocks are {show(blocks.shape)}, expected (stages)x(blocks)x(size)x(size) with an even size"
            )
        return cls(blocks, *rescale_and_limit(parts, rule))

    def written(self) -> tuple[Parts, Rule]:
        rescale = {} if self.rescale is None else {"rescale": self.rescale[:, None]}
        return {"oft_blocks": self.blocks, **rescale}, Rule(alpha=self.limit or None)

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        stages, count, size, _ = self.blocks.shape
        if len(shape) < 2 or count * size != shape[0]:
            return f"it turns {count * size} outputs, this weight is {show(shape)}"
        if not size or count * size % (2**stages * (size // 2)):
            return f"{count * size} outputs do not divide into {stages} stages of blocks of {size}"
        if self.rescale is not None and self.rescale.numel() != shape[0]:
            return f"it rescales {self.rescale.numel()} outputs and turns {shape[0]}"
        return None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._change(weight.to(dtype).flatten(1).T, strength).T.reshape(weight.shape)

    has_forward = True

    def prepared(self, weight: Tensor, groups: int = 1) -> BOFT | None:
        if groups > 1:
            # It turns rows of different groups, which see different inputs: that is no turn of the output.
            return None
        return replace(self, turns=self._turns(wide(weight.dtype)))

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """rescale_s * S_m,s ... S_1,s (f(x) - b) + b."""
        return y + layer.by_channel(layer.without_bias(y), lambda z: self._change(z, strength))

    def _turns(self, dtype: torch.dtype) -> Tensor:
        if self.turns is not None:
            return self.turns.to(dtype)
        return cayley(self.blocks, self.limit * self.blocks.shape[1] * self.blocks.shape[2], dtype)

    def _change(self, z: Tensor, strength: float | Tensor) -> Tensor:
        """What all stages and the rescaling add to z [..., out]; kept apart from z, which is far larger."""
        added = torch.zeros_like(z)
        for stage, turn in enumerate(self._turns(z.dtype)):
            added = added + strength * _stage(z + added, turn, stage)
        if self.rescale is not None:
            added = added + strength * (self.rescale.to(wide(z.dtype)) - 1).to(z.dtype) * (z + added)
        return added


def _stage(z: Tensor, turn: Tensor, stage: int) -> Tensor:
    """(S - I) z for z [..., out]: half blocks 2^stage apart are brought together, turned in pairs [k, b, b], and put back."""
    count, size, _ = turn.shape
    apart = 2**stage * (size // 2)
    together = z.unflatten(-1, (-1, 2, apart)).transpose(-2, -1).reshape(*z.shape[:-1], count, size)
    turned = torch.einsum("kij,...kj->...ki", turn, together)
    return turned.reshape(*z.shape[:-1], -1, apart, 2).transpose(-2, -1).reshape(z.shape)
