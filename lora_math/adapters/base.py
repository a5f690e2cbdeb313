"""What every adapter can do. The formulas themselves live one to a file beside this one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import StrataError
from ..layer import Layer
from ..low_rank import LowRank

Parts = dict[str, Tensor]  # the tensors of one module by role: {"lora_up": ..., "alpha": ...}
RowMap = Callable[[Tensor], Tensor]  # reorders rows of a delta, e.g. the scale/shift swap of diffusers' norm_out


@dataclass(frozen=True)
class Scaling:
    """Where the factor in front of ``up @ down`` comes from, for one module.

    alpha: the file's number, or None when it gives none: then the scale is 1 (never alpha = 1, which would divide by the rank).
    rank_stabilized: alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732) instead of alpha / rank (Hu et al. 2021).
    """

    alpha: float | None = None
    rank_stabilized: bool = False

    def scale(self, rank: int) -> float:
        """The factor for a product of this rank. Raises StrataError when alpha is NaN or infinite."""
        if self.alpha is None or rank == 0:
            return 1.0
        if not math.isfinite(self.alpha):
            raise StrataError(f"its alpha is {self.alpha}")
        return self.alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A change of one weight, as one algorithm describes it.

    Weights are [out, in] or [out, in / groups, *kernel]. Every field is a tensor, a number, a string, None, a tuple of those or another
    adapter, so that ``record`` can hand an adapter through ComfyUI, which moves nested tuples of tensors between devices.
    """

    name: ClassVar[str]
    # File suffix -> role. A role that ends in "*" below stands for any PEFT adapter name: ".lora_A.*.weight".
    suffixes: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def parse(cls, parts: Parts, scaling: Scaling) -> Adapter | None:
        """The adapter in these tensors, with the roles it used removed from ``parts``; None when they hold none of this kind."""
        raise NotImplementedError

    @property
    def rank(self) -> int | None:
        """Rank of the delta as trained, None where the word has no meaning."""
        return None

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        """(out, in * kernel) of the weight it was trained for, None where the tensors do not say."""
        return None

    @property
    def shape_after(self) -> tuple[int, ...] | None:
        """Shape of the patched weight where it differs from the base weight's, else None."""
        return None

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        """Why this adapter cannot change a weight of this shape, or None when it can."""
        raise NotImplementedError

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        """W' - W at ``strength``, shaped as ``weight``, computed in ``dtype``. Adapters that do not need W read its shape only."""
        raise NotImplementedError

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        """Turns ``weight`` into W' in place and returns it (a new tensor only where ``shape_after`` is not None).

        dtype: what to compute the delta in; weight: any float dtype, contiguous or a narrowed view; rows: applied to the delta.
        """
        delta = self.delta(weight, strength, dtype)
        return weight.add_((delta if rows is None else rows(delta)).to(weight.dtype))

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """(up [out, R], down [R, in / groups * kernel]) whose product is the delta at strength 1, scale folded in, exactly.

        None where no such factors exist without knowing W, or where they would cost more than the delta itself.
        """
        return None

    def low_rank(self, weight: Tensor | None = None) -> LowRank | None:
        """The delta at strength 1 as an exact product of two factors in float64, or None where there is none.

        weight: W, for the adapters whose delta depends on it (GLoRA).
        """
        factors = self.factors(torch.float64)
        return None if factors is None else LowRank(*factors)

    has_forward: ClassVar[bool] = False

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """f'(x) of the changed layer, given its input ``x`` and y = f(x), without ever forming W'. Computed in y's dtype.

        strength: a number, or a 0-dimensional tensor that may change between calls. Only where ``has_forward``.
        """
        raise NotImplementedError(f"{self.name} has no forward form")

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Adapter:
        """The same adapter over changed tensors (moved, cast)."""
        return from_record(_map(self.record(), change))

    def record(self) -> tuple:
        """(name, *fields) as nested tuples: the form in which an adapter travels through ComfyUI."""
        values = (getattr(self, field.name) for field in fields(self))
        return (self.name, *(value.record() if isinstance(value, Adapter) else value for value in values))


_BY_NAME: dict[str, type[Adapter]] = {}


def register(cls: type[Adapter]) -> type[Adapter]:
    """Class decorator: makes ``from_record`` know the class by its name."""
    _BY_NAME[cls.name] = cls
    return cls


def from_record(record: tuple) -> Adapter:
    """The adapter that ``Adapter.record`` wrote."""
    name, *values = record
    return _BY_NAME[name](*(from_record(v) if isinstance(v, tuple) and v and v[0] in _BY_NAME else v for v in values))


def _map(value, change):
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map(item, change) for item in value)
    return value


def show(shape) -> str:
    """A shape as people write it: 320x768."""
    return "x".join(str(n) for n in shape) or "one number"
