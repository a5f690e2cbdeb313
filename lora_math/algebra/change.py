"""What one layer changes by, with its algorithm forgotten: a low-rank product, or the difference itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..adapters import Adapter
from ..errors import StrataError
from ..fuse import apply_all_
from ..low_rank import LowRank

Term = tuple[float, Adapter]


@dataclass(frozen=True, eq=False)
class Change:
    """low: [out, in * kernel] as a product, or None where ``whole``, the difference in float64, is all there is.

    shape: the weight's, where it is known: [out, in] or [out, in / groups, *kernel]; [n] for a bias or a norm layer.
    """

    low: LowRank | None
    whole: Tensor | None
    shape: tuple[int, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether a low rank can mean anything: not for a vector, nor for a kernel over one channel."""
        return len(self.shape) > 1 and min(self.shape[0], prod(self.shape[1:])) > 1

    @property
    def squared_norm(self) -> float:
        if self.low is not None:
            return self.low.frobenius_norm() ** 2
        return float(torch.linalg.vector_norm(self.whole).square())

    def dense(self) -> Tensor:
        """In float64, shaped as the weight."""
        return (self.low.dense() if self.low is not None else self.whole).reshape(self.shape)

    def rows(self, cut: Callable[[Tensor], Tensor]) -> Change:
        """Of some rows only, or of all in another order; cut: takes them out of a tensor [out, ...]."""
        if self.low is not None:
            up = cut(self.low.up)
            return Change(LowRank(up, self.low.down), None, (len(up), *self.shape[1:]))
        whole = cut(self.whole)
        return Change(None, whole, tuple(whole.shape))

    def scaled(self, factor: float) -> Change:
        if self.low is not None:
            return Change(self.low.scaled(factor), None, self.shape)
        return Change(None, self.whole * factor, self.shape)


class OnDemand(Mapping[str, Change]):
    """name -> Change, each computed anew whenever it is asked for, and kept by nobody: all layers of a large model at once, in float64, do
    not fit into memory."""

    def __init__(self, makers: Mapping[str, Callable[[], Change]]):
        self._makers = makers

    def __getitem__(self, name: str) -> Change:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers


def total(parts: Sequence[tuple[Change, float]]) -> Change:
    """sum of factor * change of one layer: exact, a product as long as all of them are."""
    shape = parts[0][0].shape
    if all(change.low is not None for change, _ in parts):
        return Change(LowRank.concat((change.low, factor) for change, factor in parts), None, shape)
    return Change(None, sum(change.dense().reshape(shape) * factor for change, factor in parts), shape)


def needs_weight(terms: Sequence[Term]) -> bool:
    return any(adapter.needs_weight or adapter.shape_after is not None for _, adapter in terms)


def shape_of(terms: Sequence[Term]) -> tuple[int, ...]:
    """The weight's shape as far as the adapters tell it: with the kernel where a LoRA stores it, else [out, in * kernel].

    Raises StrataError where nothing tells.
    """
    told = [shape for _, adapter in terms if (shape := adapter.weight_shape) is not None]
    if told:
        return max(told, key=len)
    raise StrataError(f"{terms[0][1].name} does not say what size of weight it changes")


def change_of(terms: Sequence[Term], shape: tuple[int, ...] | None = None, weight: Tensor | None = None) -> Change:
    """The change that these terms, applied in order, make to one weight.

    weight: W, any float type, needed by adapters that depend on it. A DoRA, a rotation or a replaced weight meets what the terms before
    it left, as when they are applied. Raises StrataError where the weight is needed and missing, or a term does not fit.
    """
    shape = tuple(shape if shape is not None else weight.shape if weight is not None else shape_of(terms))
    for _, adapter in terms:
        reason = adapter.mismatch(shape)
        if reason is not None:
            raise StrataError(reason)
    if weight is None and needs_weight(terms):
        names = ", ".join(dict.fromkeys(a.name for _, a in terms if needs_weight([(1.0, a)])))
        raise StrataError(f"{names} changes a weight by what is in it: connect the model that the LoRA was made for")
    if any(adapter.shape_after is not None for _, adapter in terms):
        raise StrataError("it widens the weight, which cannot be said as a change of it")
    if len(shape) > 1:
        lows = [(adapter.low_rank(weight), coefficient) for coefficient, adapter in terms]
        # GLoRA's product depends on W, which an earlier term has changed already.
        alone = len(terms) == 1 or not needs_weight(terms)
        if alone and all(low is not None for low, _ in lows):
            return Change(LowRank.concat(lows), None, shape)
    if not needs_weight(terms):
        whole = sum(adapter.delta(torch.empty(shape), strength, torch.float64) for strength, adapter in terms)
        return Change(None, whole, shape)
    base = weight.to("cpu", torch.float64, copy=True)
    return Change(None, apply_all_(base.clone(), terms, torch.float64) - base, shape)
