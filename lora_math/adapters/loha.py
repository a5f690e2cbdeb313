"""LoHa, LoRA with a Hadamard product (FedPara, Hyeon-Woo et al. 2021, arXiv 2108.06098; LyCORIS ``modules/loha.py``, PEFT, OneTrainer).

delta W = strength * scale * (up1 @ down1) o (up2 @ down2), o the elementwise product. That is exactly a product of rank r^2:
up[i, (p, q)] = up1[i, p] up2[i, q], down[(p, q), j] = down1[p, j] down2[q, j].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ..energy import product_norm, sum_of_squares
from ..errors import StrataError
from ..extremes import largest
from ..layer import Layer
from .base import Adapter, register
from .lora import LoRA
from .matrices import TILE, RowMap, fold_core, landing, show, times, wide
from .stored import STYLES, Parts, Rule, alpha_for, lycoris_suffixes

_PARTS = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")


# The most multiplications that a norm may take, some seconds; the largest layers that are trained as LoHa take a tenth.
MAX_WORK = 4e10


@register
@dataclass(frozen=True, eq=False)
class LoHa(Adapter):
    """w1_a, w2_a [out, r(, 1...)]; w1_b, w2_b [r, in / groups(, *kernel) or * kernel] (OneTrainer stores them as convolutions).

    Tucker: t1, t2 [r, r, *kernel], and then w1_a, w2_a are [r, out], w1_b, w2_b [r, in / groups].
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None
    scale: float = 1.0

    name = "LoHa"
    suffixes = lycoris_suffixes("hada", _PARTS)
    together = (tuple(f"hada_{part}" for part in _PARTS[:4]),)
    spelled = {style: {f"hada_{part}": f".hada_{part}" for part in _PARTS} for style in STYLES}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> LoHa | None:
        if not all(f"hada_{part}" in parts for part in ("w1_a", "w1_b", "w2_a", "w2_b")):
            return None
        factors = [parts.pop(f"hada_{part}") for part in ("w1_a", "w1_b", "w2_a", "w2_b")]
        cores = [parts.pop("hada_t1", None), parts.pop("hada_t2", None)]
        if any(tensor.ndim < 2 for tensor in factors):
            raise StrataError(f"its factors are not matrices ({' and '.join(show(t.shape) for t in factors)})")
        if (cores[0] is None) != (cores[1] is None):
            raise StrataError("it has only one of hada_t1 and hada_t2")
        return cls(*factors, *cores, rule.scale(factors[1].shape[0]))

    def forms(self) -> Iterator[str]:
        yield self.name
        if self.t1 is None and self.w1_a.ndim > 2:
            yield "LoHa stored as convolutions"

    def unscaled(self) -> LoHa:
        return replace(self, w1_a=times(self.w1_a, self.scale), scale=1.0)

    def written(self) -> tuple[Parts, Rule]:
        parts = {f"hada_{part}": getattr(self, part) for part in _PARTS}
        return {role: t for role, t in parts.items() if t is not None}, alpha_for(self.scale, self.rank)

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        if self.t1 is not None:
            return self.w1_a.shape[1], self.w1_b.shape[1] * prod(self.t1.shape[2:])
        return self.w1_a.shape[0], prod(self.w1_b.shape[1:])

    @cached_property
    def reach(self) -> float:
        tensors = [t for t in (self.w1_a, self.w1_b, self.w2_a, self.w2_b, self.t1, self.t2) if t is not None]
        return abs(self.scale) * self.rank ** (len(tensors) - 2) * prod(map(largest, tensors))

    @property
    def is_idle(self) -> bool:
        return self.reach == 0

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        for a, b, core in ((self.w1_a, self.w1_b, self.t1), (self.w2_a, self.w2_b, self.t2)):
            rank = b.shape[0]
            if (a.shape[0] if core is not None else prod(a.shape[1:])) != rank:
                return f"its factors {show(a.shape)} and {show(b.shape)} have no common rank"
            if core is not None and any(prod(factor.shape[1:]) != factor.shape[1] for factor in (a, b)):
                return f"its factors {show(a.shape)} and {show(b.shape)} are not matrices"
            if core is not None and core.shape[:2] != (rank, rank):
                return f"its core is {show(core.shape)}, expected {rank}x{rank}x(kernel)"
        out, columns = self.matrix_shape
        if not shape or out != shape[0] or columns != prod(shape[1:]):
            return f"it changes a {out}x{columns} weight, this one is {show(shape)}"
        if LoHa(self.w2_a, self.w2_b, self.w1_a, self.w1_b, self.t2, self.t1).matrix_shape != (out, columns):
            return "its two halves are of different sizes"
        return None

    def squared_norm(self, shape: tuple[int, ...]) -> float | None:
        """Some rows at a time, or as the product of rank r^2 that it is, whichever is less work; None for a weight larger than any."""
        (up1, down1), (up2, down2) = self.halves(torch.float32)
        rows, columns = len(up1), down1.shape[1]
        ranks = len(down1), len(down2)
        direct, joined = rows * columns * sum(ranks), (rows + columns) * prod(ranks) ** 2
        if min(direct, joined) > MAX_WORK:
            return None
        if joined < direct:
            up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
            return self.scale**2 * product_norm(up, (down1[:, None, :] * down2[None, :, :]).flatten(0, 1))
        height = max(1, TILE // max(1, columns))
        parts = zip(up1.split(height), up2.split(height), strict=True)
        return self.scale**2 * sum(sum_of_squares((left @ down1).mul_(right @ down2)) for left, right in parts)

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        (up1, down1), (up2, down2) = self.halves(dtype)
        return (up1 @ down1).mul_(up2 @ down2).mul_(strength * self.scale).reshape(weight.shape)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        matrix = landing(weight, dtype) if rows is None else None
        if matrix is None:
            return super().apply_(weight, strength, dtype, rows)
        (up1, down1), (up2, down2) = self.halves(weight.dtype)
        height = max(1, TILE // max(1, matrix.shape[1]))
        for tile, left, right in zip(matrix.split(height), up1.split(height), up2.split(height), strict=True):
            tile.addcmul_(left @ down1, right @ down2, value=strength * self.scale)
        return weight

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        if self.factor_rank is None:
            return None
        (up1, down1), (up2, down2) = self.halves(dtype)
        up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
        return up * self.scale, (down1[:, None, :] * down2[None, :, :]).flatten(0, 1)

    @property
    def factor_rank(self) -> int | None:
        (out, columns), rank = self.matrix_shape, self.w1_b.shape[0] * self.w2_b.shape[0]
        return None if rank * (out + columns) >= out * columns else rank

    has_forward = True

    def prepared(self, weight: Tensor, groups: int = 1) -> Adapter:
        factors = self.factors(wide(weight.dtype))
        return self if factors is None else LoRA(*factors)

    def response(self, layer: Layer, x: Tensor) -> Tensor:
        factors = self.factors(x.dtype)
        if factors is not None:
            return layer.product(x, *factors)
        # Too high a rank: forming the delta anew costs about r / (positions in x) of running it, storing it costs as much as the model.
        (up1, down1), (up2, down2) = self.halves(x.dtype)
        change = (up1 @ down1).mul_(up2 @ down2).mul_(self.scale)
        return layer.dense(x, change.reshape(layer.weight_shape))

    def halves(self, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """((up1 [out, r], down1 [r, in * kernel]), (up2, down2)) in ``dtype``, scale not folded in."""
        return _half(self.w1_a, self.w1_b, self.t1, dtype), _half(self.w2_a, self.w2_b, self.t2, dtype)


def _half(a: Tensor, b: Tensor, core: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if core is None:
        return a.to(dtype).flatten(1), b.to(dtype).flatten(1)
    return a.to(dtype).flatten(1).T, fold_core(core, b, dtype)
