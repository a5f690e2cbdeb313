"""LoKr, LoRA with a Kronecker product (KronA, Edalati et al. 2022, arXiv 2212.10650; LyCORIS ``modules/lokr.py``, PEFT, OneTrainer).

delta W = strength * scale * w1 (x) w2, with w1 [a, c], w2 [b, d * kernel], out = a b, in / groups = c d. Each of the two may be a product.
The scale is alpha / rank where one of them is; where both are stored whole LyCORIS sets it to 1 whatever alpha says (``lokr.py``: alpha =
lora_dim), and trainers write meaningless alphas there, infinity included. PEFT divides by its configured rank in either case.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ..energy import product_norm, sum_of_squares
from ..errors import StrataError
from ..extremes import largest
from ..layer import Layer
from ..low_rank import singular_values_of
from .base import Adapter, register
from .matrices import RowMap, fold_core, landing, product_spectrum_work, show, times, wide
from .stored import KOHYA, PEFT, Parts, Rule, alpha_for, lycoris_suffixes

_PARTS = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
_SUFFIXES = {f"lokr_{part}": f".lokr_{part}" for part in _PARTS}


@register
@dataclass(frozen=True, eq=False)
class LoKr(Adapter):
    """w1: (w1 [a, c],) or (w1_a [a, r], w1_b [r, c]).

    w2: (w2 [b, d(, *kernel)],), (w2_a [b, r], w2_b [r, d * kernel]) or Tucker (w2_a [r, b], w2_b [r, d], t2 [r, r, *kernel]).
    """

    w1: tuple[Tensor, ...]
    w2: tuple[Tensor, ...]
    scale: float = 1.0

    name = "LoKr"
    suffixes = lycoris_suffixes("lokr", _PARTS)
    together = (("lokr_w1_a", "lokr_w1_b"), ("lokr_w2_a", "lokr_w2_b"))
    spelled = {KOHYA: _SUFFIXES, PEFT: _SUFFIXES}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> LoKr | LoKrConv1d | None:
        w1 = _take(parts, ("lokr_w1",)) or _take(parts, ("lokr_w1_a", "lokr_w1_b"))
        if w1 is None:
            return None
        w2 = (
            _take(parts, ("lokr_w2",))
            or _take(parts, ("lokr_w2_a", "lokr_w2_b", "lokr_t2"))
            or _take(parts, ("lokr_w2_a", "lokr_w2_b"))
        )
        if w2 is None:
            parts.update(zip(("lokr_w1",) if len(w1) == 1 else ("lokr_w1_a", "lokr_w1_b"), w1, strict=True))
            return None
        if any(tensor.ndim < 2 for tensor in (*w1, *w2)):
            raise StrataError(f"its factors are not matrices ({' and '.join(show(t.shape) for t in (*w1, *w2))})")
        if rule.peft and len(w2) == 1 and w2[0].ndim == 3:
            return LoKrConv1d(w1, w2[0], _scale(w1, w2, rule))
        return cls(w1, w2, _scale(w1, w2, rule))

    @classmethod
    def lacks(cls, roles: Collection[str]) -> str | None:
        for side, other in (("lokr_w1", "lokr_w2"), ("lokr_w2", "lokr_w1")):
            if any(role.startswith(side) for role in roles) and not any(role.startswith(other) for role in roles):
                return super().lacks(roles) or f"{side} without {other}"
        return super().lacks(roles)

    def forms(self) -> Iterator[str]:
        yield self.name
        if 3 in (len(self.w1), len(self.w2)):
            yield "LoKr in Tucker form"
        if len(self.w2) == 1 and self.w2[0].ndim in (3, 5):
            yield "LoKr with 1 or 3 dimensions"

    def unscaled(self) -> LoKr:
        return replace(self, w1=_unscaled(self.w1, self.scale), scale=1.0)

    def written(self) -> tuple[Parts, Rule]:
        # Readers ignore the alpha of two whole sides.
        if self.rank is None and self.scale != 1:
            return self.unscaled().written()
        rule = Rule() if self.rank is None else alpha_for(self.scale, self.rank)
        return {**_roles("lokr_w1", self.w1), **_roles("lokr_w2", self.w2)}, rule

    @property
    def rank(self) -> int | None:
        """Rank of the decomposed side, as trained; None where both sides are whole."""
        decomposed = self.w2 if len(self.w2) > 1 else self.w1
        return decomposed[1].shape[0] if len(decomposed) > 1 else None

    @property
    def matrix_shape(self) -> tuple[int, int]:
        (a, c), (b, d) = _shape(self.w1), _shape(self.w2)
        return a * b, c * d

    @cached_property
    def reach(self) -> float:
        terms = prod(
            (side[1].shape[0] if len(side) == 2 else side[0].shape[0] ** 2)
            for side in (self.w1, self.w2)
            if len(side) > 1
        )
        return abs(self.scale) * terms * prod(map(largest, (*self.w1, *self.w2)))

    @property
    def is_idle(self) -> bool:
        return self.reach == 0

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        for side in (self.w1, self.w2):
            ranks = {side[0].shape[0] if len(side) == 3 else prod(side[0].shape[1:]), *(t.shape[0] for t in side[1:])}
            if len(side) > 1 and len(ranks) > 1:
                return f"its factors {' and '.join(show(t.shape) for t in side)} have no common rank"
            if len(side) == 3 and any(prod(factor.shape[1:]) != factor.shape[1] for factor in side[:2]):
                return f"its factors {' and '.join(show(t.shape) for t in side[:2])} are not matrices"
            if len(side) == 3 and side[2].shape[1] != side[2].shape[0]:
                return f"its core is {show(side[2].shape)}, expected {show(side[2].shape[:1] * 2)}x(kernel)"
        out, columns = self.matrix_shape
        if not shape or out != shape[0] or columns != prod(shape[1:]):
            return f"it changes a {out}x{columns} weight, this one is {show(shape)}"
        c = _shape(self.w1)[1]
        return (
            None
            if len(shape) < 2 or (c and shape[1] % c == 0)
            else f"its {c} input blocks do not divide {shape[1]} inputs"
        )

    def squared_norm(self, shape: tuple[int, ...]) -> float:
        # The norm of a Kronecker product is the product of the norms.
        return self.scale**2 * _squared(self.w1) * _squared(self.w2)

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        left, right = _whole(self.w1, dtype), _whole(self.w2, dtype)
        return torch.kron(left * (strength * self.scale), right).reshape(weight.shape)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        matrix = landing(weight, dtype) if rows is None else None
        if matrix is None:
            return super().apply_(weight, strength, dtype, rows)
        left, right = _whole(self.w1, weight.dtype), _whole(self.w2, weight.dtype)
        (a, c), (b, d) = left.shape, right.shape
        # matrix[(i, k), (j, l)] += left[i, j] * right[k, l]
        blocks = matrix.unflatten(1, (c, d)).unflatten(0, (a, b))
        blocks.addcmul_(left[:, None, :, None], right[None, :, None, :], value=strength * self.scale)
        return weight

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """(w1_a (x) w2_a) @ (w1_b (x) w2_b): rank r1 * r2, a whole side counting with its smaller dimension."""
        if self.factor_rank is None:
            return None
        (up1, down1), (up2, down2) = _split(self.w1, dtype), _split(self.w2, dtype)
        # PyTorch's kron cannot take every transposed matrix, nor a column that still has the steps of one.
        up1, down1, up2, down2 = (
            side.clone(memory_format=torch.contiguous_format) for side in (up1, down1, up2, down2)
        )
        return torch.kron(up1 * self.scale, up2), torch.kron(down1, down2)

    @property
    def factor_rank(self) -> int | None:
        (out, columns), rank = self.matrix_shape, _rank(self.w1) * _rank(self.w2)
        return None if rank * (out + columns) >= out * columns else rank

    @property
    def spectrum_work(self) -> float:
        return sum(product_spectrum_work(*_shape(side), _rank(side)) for side in (self.w1, self.w2))

    def singular_values(self) -> Tensor:
        """Those of a Kronecker product are the products of those of its two sides (Van Loan 2000)."""
        left, right = (singular_values_of(*_split(side, torch.float64)) for side in (self.w1, self.w2))
        return torch.outer(left, right).flatten().sort(descending=True).values * abs(self.scale)

    has_forward = True

    def prepared(self, weight: Tensor, groups: int = 1) -> LoKr:
        return replace(self, w1=(_whole(self.w1, wide(weight.dtype)),), w2=(_whole(self.w2, wide(weight.dtype)),))

    def response(self, layer: Layer, x: Tensor) -> Tensor:
        left, right = _whole(self.w1, x.dtype) * self.scale, _whole(self.w2, x.dtype)
        if layer.groups == 1:
            return layer.kronecker(x, left, right)
        # A group's outputs are not a whole number of w2's blocks: there is nothing to factor.
        return layer.dense(x, torch.kron(left, right).reshape(layer.weight_shape))


@register
@dataclass(frozen=True, eq=False)
class LoKrConv1d(Adapter):
    """w1 as in LoKr, w2 [b, d, kernel]. PEFT's ``make_kron`` gives w1 the kernel's axis for conv2d only: in conv1d it multiplies
    [1, a, c] by [b, d, kernel] and cuts the result to the weight's shape, which is no Kronecker product of the two any more, but is
    what it trains."""

    w1: tuple[Tensor, ...]
    w2: Tensor
    scale: float = 1.0

    name = "PEFT's LoKr of a conv1d"
    spelled = {PEFT: _SUFFIXES}

    def unscaled(self) -> LoKrConv1d:
        return replace(self, w1=_unscaled(self.w1, self.scale), scale=1.0)

    def written(self) -> tuple[Parts, Rule]:
        whole = self.unscaled()
        return {**_roles("lokr_w1", whole.w1), "lokr_w2": whole.w2}, Rule(peft=True)

    def squared_norm(self, shape: tuple[int, ...]) -> float:
        return self.scale**2 * _squared(self.w1) * sum_of_squares(self.w2)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        (a, c), (b, d, kernel) = _shape(self.w1), self.w2.shape
        return a * b, c * d * kernel

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        if len(self.w1) > 1 and prod(self.w1[0].shape[1:]) != self.w1[1].shape[0]:
            return f"its factors {' and '.join(show(t.shape) for t in self.w1)} have no common rank"
        out, columns = self.matrix_shape
        if not shape or out != shape[0] or columns != prod(shape[1:]):
            return f"it changes a {out}x{columns} weight, this one is {show(shape)}"
        return None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        left = _whole(self.w1, dtype) * (strength * self.scale)
        return torch.kron(left, self.w2.to(dtype)).reshape(weight.shape)


def _take(parts: Parts, roles: tuple[str, ...]) -> tuple[Tensor, ...] | None:
    return tuple(parts.pop(role) for role in roles) if all(role in parts for role in roles) else None


def _scale(w1: tuple[Tensor, ...], w2: tuple[Tensor, ...], rule: Rule) -> float:
    decomposed = w2 if len(w2) > 1 else w1
    if rule.alpha is not None and math.isinf(rule.alpha):
        return rule._replace(alpha=None).scale(0)
    return rule.scale(0 if len(decomposed) == 1 else decomposed[1].shape[0])


def _roles(side: str, tensors: tuple[Tensor, ...]) -> Parts:
    names = {1: (side,), 2: (f"{side}_a", f"{side}_b"), 3: (f"{side}_a", f"{side}_b", side.replace("_w", "_t"))}
    return dict(zip(names[len(tensors)], tensors, strict=True))


def _unscaled(side: tuple[Tensor, ...], scale: float) -> tuple[Tensor, ...]:
    return (times(side[0], scale), *side[1:])


def _squared(side: tuple[Tensor, ...]) -> float:
    """Squared norm of one side of a Kronecker product: whole, a product, or a Tucker product."""
    if len(side) == 1:
        return sum_of_squares(side[0])
    if len(side) == 2:
        return product_norm(side[0].flatten(1), side[1].flatten(1))
    # The sum over i, j, k of (sum over p, q of a[p, i] b[q, j] core[p, q, k])^2, whose factors may be far larger than the core.
    a, b = (tensor.float().flatten(1) for tensor in side[:2])
    core = side[2].float().reshape(*side[2].shape[:2], -1)
    return max(float((torch.einsum("pr,qs,pqk->rsk", a @ a.T, b @ b.T, core) * core).sum(dtype=torch.float64)), 0.0)


def _shape(side: tuple[Tensor, ...]) -> tuple[int, int]:
    if len(side) == 3:
        return side[0].shape[1], side[1].shape[1] * prod(side[2].shape[2:])
    return side[0].shape[0], prod(side[-1].shape[1:])


def _rank(side: tuple[Tensor, ...]) -> int:
    return min(_shape(side)) if len(side) == 1 else side[1].shape[0]


def _split(side: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A side as (up [rows, rank], down [rank, columns])."""
    if len(side) == 3:
        return side[0].to(dtype).flatten(1).T, fold_core(side[2], side[1], dtype)
    if len(side) == 2:
        return side[0].to(dtype).flatten(1), side[1].to(dtype).flatten(1)
    matrix = side[0].to(dtype).flatten(1)
    unit = torch.eye(min(matrix.shape), dtype=dtype, device=matrix.device)
    return (matrix, unit) if matrix.shape[1] <= matrix.shape[0] else (unit, matrix)


def _whole(side: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """A side as one matrix, multiplied out in at least single precision."""
    if len(side) == 1:
        return side[0].to(dtype).flatten(1)
    up, down = _split(side, wide(dtype))
    return (up @ down).to(dtype)
