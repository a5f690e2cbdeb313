"""OFT, orthogonal finetuning with a block-diagonal rotation of the outputs (Qiu et al. 2023, arXiv 2306.07280), as LyCORIS
(``modules/diag_oft.py``) and kohya (``networks/oft.py``, ``oft_flux.py``) train it.

Q = blocks - blocks^T, R = (I + Q)(I - Q)^-1 (Cayley), W' = rescale * R^T W. ``alpha`` is no scale but a limit:
Q <- Q min(1, alpha * out / |Q|), the norm taken over all blocks; 0 means none.
At other strengths R_s = I + s (R - I) and rescale_s = 1 + s (rescale - 1): linear in s without rescale (as both trainers' own
multiplier), quadratic with it, where the trainers disagree with themselves; 0 is always W.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import StrataError
from ..layer import Layer
from .base import Adapter, register
from .matrices import TILE, RowMap, as_matrix, show, wide
from .stored import KOHYA, Parts, Rule


@register
@dataclass(frozen=True, eq=False)
class OFT(Adapter):
    """blocks: one [k, b, b] per run of k * b outputs: one for the whole layer, or kohya's 3 or 4 for FLUX's fused q, k, v(, mlp).

    rescale [out] or None; limit: see above; turns: what ``prepared`` stores, R - I of each of ``blocks``.
    """

    blocks: tuple[Tensor, ...]
    rescale: Tensor | None = None
    limit: float = 0.0
    turns: tuple[Tensor, ...] | None = None

    name = "OFT"
    needs_weight = True
    is_linear = False
    suffixes = {
        ".oft_blocks": "oft_blocks",
        ".rescale": "rescale",
        **{f".oft_blocks.{i}": f"oft_blocks.{i}" for i in range(4)},
    }
    spelled = {KOHYA: {role: suffix for suffix, role in suffixes.items()}}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> OFT | None:
        roles = [role for role in ("oft_blocks", *(f"oft_blocks.{i}" for i in range(4))) if role in parts]
        # Blocks of four axes are BOFT's.
        if not roles or parts[roles[0]].ndim == 4:
            return None
        blocks = tuple(parts.pop(role) for role in roles)
        for block in blocks:
            if block.ndim != 3 or block.shape[1] != block.shape[2]:
                raise StrataError(f"its oft_blocks are {show(block.shape)}, expected (blocks)x(size)x(size)")
        return cls(blocks, *rescale_and_limit(parts, rule))

    def written(self) -> tuple[Parts, Rule]:
        roles = ("oft_blocks",) if len(self.blocks) == 1 else tuple(f"oft_blocks.{i}" for i in range(len(self.blocks)))
        rescale = {} if self.rescale is None else {"rescale": self.rescale[:, None]}
        return {**dict(zip(roles, self.blocks, strict=True)), **rescale}, Rule(alpha=self.limit or None)

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        out = sum(block.shape[0] * block.shape[1] for block in self.blocks)
        if len(shape) < 2 or out != shape[0]:
            return f"it turns {out} outputs, this weight is {show(shape)}"
        if self.rescale is not None and self.rescale.numel() != out:
            return f"it rescales {self.rescale.numel()} outputs and turns {out}"
        return None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        change = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        matrix = weight.reshape(weight.shape[0], -1)
        for rows, turn, rescale in self._runs(dtype, matrix.shape[1]):
            change.view(matrix.shape)[rows] = _turned(matrix[rows].to(dtype), turn, rescale, strength)
        return change

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        matrix = as_matrix(weight) if rows is None else None
        if matrix is None:
            return super().apply_(weight, strength, dtype, rows)
        for run, turn, rescale in self._runs(dtype, matrix.shape[1]):
            matrix[run] += _turned(matrix[run].to(dtype), turn, rescale, strength)
        return weight

    has_forward = True

    def prepared(self, weight: Tensor, groups: int = 1) -> OFT | None:
        if groups > 1 and any(weight.shape[0] // groups % block.shape[1] for block in self.blocks):
            # A block that turns rows of two groups mixes weights that see different inputs: that is no turn of the output.
            return None
        return replace(self, turns=self._turns(wide(weight.dtype)))

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """rescale_s * R_s^T (f(x) - b) + b."""

        def change(z: Tensor) -> Tensor:
            parts, start = [], 0
            for turn in self._turns(z.dtype):
                count, size, _ = turn.shape
                part = z.narrow(-1, start, count * size).unflatten(-1, (count, size))
                parts.append(torch.einsum("knm,...kn->...km", turn, part).flatten(-2))
                start += count * size
            turned = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
            if self.rescale is None:
                return turned
            return turned + (self.rescale.to(wide(z.dtype)) - 1).to(z.dtype) * (z + strength * turned)

        return y + strength * layer.by_channel(layer.without_bias(y), change)

    def _turns(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """R - I [k, b, b] of every run."""
        if self.turns is not None:
            return tuple(turn.to(dtype) for turn in self.turns)
        return tuple(cayley(block, self.limit * block.shape[0] * block.shape[1], dtype) for block in self.blocks)

    def _runs(self, dtype: torch.dtype, columns: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """(rows, R - I of the blocks on them, rescale of the rows), so few rows at a time that a tile of them is small."""
        start = 0
        rescale = None if self.rescale is None else self.rescale.to(dtype)
        for turn in self._turns(dtype):
            size = turn.shape[1]
            for some in turn.split(max(1, TILE // max(1, size * columns))):
                rows = slice(start, start + some.shape[0] * size)
                yield rows, some, None if rescale is None else rescale[rows, None]
                start = rows.stop


def cayley(blocks: Tensor, limit: float, dtype: torch.dtype) -> Tensor:
    """R - I = 2 (I - Q)^-1 Q [..., b, b] for Q = blocks - blocks^T, its norm cut to ``limit`` where that is above 0.

    Computed in at least single precision: half precision has no solver, and R is so near I that R itself would lose the difference.
    """
    q = blocks.to(wide(dtype))
    q = q - q.transpose(-1, -2)
    if limit > 0:
        q = q * (limit / torch.linalg.vector_norm(q)).clamp(max=1)
    # I - Q is never singular but for overflow, and what that leaves is seen in the weight: no check that waits for the GPU.
    return torch.linalg.solve_ex(torch.eye(q.shape[-1], dtype=q.dtype, device=q.device) - q, 2 * q).result.to(dtype)


def rescale_and_limit(parts: Parts, rule: Rule) -> tuple[Tensor | None, float]:
    """(rescale [out] or None, alpha) of a LyCORIS rotation."""
    alpha = 0.0 if rule.alpha is None else rule.alpha
    if math.isnan(alpha):
        raise StrataError("its alpha is nan")
    rescale = parts.pop("rescale", None)
    return None if rescale is None else rescale.flatten(), alpha


def _turned(z: Tensor, turn: Tensor, rescale: Tensor | None, strength: float) -> Tensor:
    """rescale_s * R_s^T z - z for rows z [k * b, n]."""
    turned = torch.bmm(turn.transpose(1, 2), z.unflatten(0, turn.shape[:2])).flatten(0, 1)
    if rescale is not None:
        turned += (rescale - 1) * (z + strength * turned)
    return turned.mul_(strength)
