"""Some rows of another adapter's change: a LoRA for q, k and v as one layer, on a model that has the three apart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import Adapter, Diff, DoRA, LoRA
from .base import register
from .dora import OUT


@register
@dataclass(frozen=True, eq=False)
class Rows(Adapter):
    """delta W = (delta of ``inner``)[start : start + length], for an ``inner`` whose change does not depend on the weight.

    inner: made for a weight of ``total`` rows.
    """

    inner: Adapter
    start: int
    length: int
    total: int

    name = "rows"

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        shape = self.inner.matrix_shape
        return None if shape is None else (self.length, shape[1])

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        if not shape or shape[0] != self.length:
            return f"{self.length} of its rows belong here, this weight has {shape[0] if shape else 0}"
        return self.inner.mismatch((self.total, *shape[1:]))

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        whole = weight.new_empty(()).expand(self.total, *weight.shape[1:])  # only its shape is looked at
        return self.inner.delta(whole, strength, dtype).narrow(0, self.start, self.length).reshape(weight.shape)

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        factors = self.inner.factors(dtype)
        return None if factors is None else (factors[0].narrow(0, self.start, self.length), factors[1])


def rows_of(adapter: Adapter, start: int, length: int, total: int) -> Adapter | None:
    """The part of ``adapter``, made for ``total`` rows, that changes ``length`` of them from ``start`` on.

    None where a part of the change cannot be had without the whole weight (OFT, DoRA on the input axis).
    """
    if isinstance(adapter, LoRA):
        return replace(adapter, up=adapter.up.narrow(0, start, length)) if adapter.up.shape[0] == total else None
    if isinstance(adapter, DoRA):
        inner = rows_of(adapter.inner, start, length, total)
        whole = adapter.axis == OUT and adapter.magnitude.numel() == total and inner is not None
        return DoRA(inner, adapter.magnitude.narrow(0, start, length), OUT) if whole else None
    if isinstance(adapter, Diff):
        return Diff(adapter.value.narrow(0, start, length), adapter.scale) if adapter.value.shape[0] == total else None
    if adapter.needs_weight or adapter.shape_after is not None:
        return None
    return Rows(adapter, start, length, total)
