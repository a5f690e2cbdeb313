"""The sparse residue that LyCORIS keeps beside an extracted LoRA (``utils/__init__.py``, ``extract_diff`` with ``use_bias``): the entries
of the weight's change that the low rank missed most. "bias" in its key names means this, not the layer's bias."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..energy import sum_of_squares
from ..errors import StrataError
from .base import Adapter, register
from .matrices import RowMap, as_matrix, show
from .stored import KOHYA, Parts, Rule

_ROLES = ("bias_indices", "bias_values", "bias_size")


@register
@dataclass(frozen=True, eq=False)
class Sparse(Adapter):
    """delta W[indices[0, n], indices[1, n]] = strength * values[n] in a weight flattened to ``size`` = [out, in * kernel].

    indices [2, n] may be 16-bit, as LyCORIS writes them: rows and columns above 32767 are then stored as negative numbers.
    """

    indices: Tensor
    values: Tensor
    size: tuple[int, int]

    name = "sparse"
    suffixes = {f".{role}": role for role in _ROLES}
    together = (_ROLES,)
    spelled = {KOHYA: {role: f".{role}" for role in _ROLES}}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> Sparse | None:
        if not all(role in parts for role in _ROLES):
            return None
        indices, values, size = (parts.pop(role) for role in _ROLES)
        if indices.shape != (2, values.numel()) or size.numel() != 2 or indices.is_floating_point():
            raise StrataError(f"its sparse residue has {values.numel()} values at {show(indices.shape)} places")
        return cls(indices, values.flatten(), tuple(_unsigned(size).flatten().tolist()))

    def written(self) -> tuple[Parts, Rule]:
        return dict(zip(_ROLES, (self.indices, self.values, torch.tensor(self.size)), strict=True)), Rule()

    def squared_norm(self, shape: tuple[int, ...]) -> float:
        return sum_of_squares(self.values)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return self.size

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        if not shape or self.size != (shape[0], prod(shape[1:])):
            return f"it changes a {show(self.size)} weight, this one is {show(shape)}"
        places = _unsigned(self.indices)
        if (
            places.numel()
            and (places < 0).any() | (places.amax(1) >= torch.tensor(self.size, device=places.device)).any()
        ):
            return "it changes entries outside of the weight"
        return None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        change = torch.zeros(weight.shape, dtype=dtype, device=weight.device)
        return self.apply_(change, strength, dtype)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        matrix = as_matrix(weight) if rows is None else None
        if matrix is None:
            return super().apply_(weight, strength, dtype, rows)
        place = tuple(_unsigned(self.indices))
        matrix[place] = (matrix[place].to(dtype) + self.values.to(dtype) * strength).to(weight.dtype)
        return weight


def _unsigned(numbers: Tensor) -> Tensor:
    wide = numbers.to(torch.int64)
    return wide & 0xFFFF if numbers.dtype == torch.int16 else wide
