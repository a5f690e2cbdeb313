"""Changes that are stored whole: differences (``diff``, ``diff_b``, norm layers), replaced weights, and padded weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ..energy import sum_of_squares
from ..errors import StrataError
from ..extremes import largest
from .base import Adapter, register
from .matrices import RowMap, show, times
from .stored import STYLES, Parts, Rule

MAX_AXES = 8
# How many times as large a padded weight may be as the model's own: BFL's control LoRAs double or sextuple img_in.
MAX_GROWTH = 16


@register
@dataclass(frozen=True, eq=False)
class Diff(Adapter):
    """delta W = strength * scale * value; value [as the weight] (LyCORIS ``full`` and ``norms``, kohya, PEFT's ``lora_B.bias``)."""

    value: Tensor
    scale: float = 1.0

    name = "diff"
    suffixes = {
        ".diff": "diff",
        ".w_norm": "diff",
        ".diff_b": "diff_b",
        ".b_norm": "diff_b",
        # PEFT trains a bias of B inside the LoRA's branch.
        ".lora_B.bias": "lora_up_bias",
        ".lora_B.*.bias": "lora_up_bias",
    }
    spelled = {style: {"diff": ".diff"} for style in STYLES}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> Diff | None:
        return cls(parts.pop("diff")) if "diff" in parts else None

    def written(self) -> tuple[Parts, Rule]:
        return {"diff": times(self.value, self.scale)}, Rule()

    def write_bias(self) -> tuple[Parts, Rule]:
        return {".diff_b": times(self.value, self.scale)}, Rule()

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @classmethod
    def parse_bias(cls, parts: Parts, rule: Rule, rank: int | None) -> Diff | None:
        """The change of the bias. PEFT trains ``lora_B.bias`` inside the scaled branch, so it carries the LoRA's scale."""
        if "diff_b" in parts:
            return cls(parts.pop("diff_b"))
        if "lora_up_bias" in parts and rank is not None:
            return cls(parts.pop("lora_up_bias"), rule.scale(rank))
        return None

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        return None if _same(self.value.shape, shape) else _differs(self.value, shape)

    @cached_property
    def reach(self) -> float:
        return abs(self.scale) * largest(self.value)

    def squared_norm(self, shape: tuple[int, ...]) -> float:
        return self.scale**2 * sum_of_squares(self.value)

    def cut(self, start: int, length: int, total: int) -> Diff | None:
        return Diff(self.value.narrow(0, start, length), self.scale) if self.value.shape[0] == total else None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        return (self.value.to(dtype) * (strength * self.scale)).reshape(weight.shape)


@register
@dataclass(frozen=True, eq=False)
class SetWeight(Adapter):
    """W' = value at every strength but 0: a replaced weight has no half-way (ComfyUI does the same).

    reshapes: whether it replaces a weight of another shape (MiniMax-H3's PDD LoRA, which ComfyUI 0.35 reads): what ``meeting`` finds out.
    """

    value: Tensor
    reshapes: bool = False

    name = "set"
    needs_weight = True
    is_linear = False
    suffixes = {".set_weight": "set_weight"}
    spelled = {style: {"set_weight": ".set_weight"} for style in STYLES}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> SetWeight | None:
        return cls(parts.pop("set_weight")) if "set_weight" in parts else None

    def meeting(self, shape: tuple[int, ...], is_bias: bool = False) -> SetWeight:
        """Matrices and biases may come in another size, within reason; a norm of another size is another model's."""
        numbers, here = self.value.numel(), prod(shape)
        if _same(self.value.shape, shape) or self.value.ndim != len(shape) or not (is_bias or len(shape) > 1):
            return self
        return replace(self, reshapes=0 < here <= MAX_GROWTH * numbers and numbers <= MAX_GROWTH * here)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def shape_after(self) -> tuple[int, ...] | None:
        return tuple(self.value.shape) if self.reshapes else None

    def written(self) -> tuple[Parts, Rule]:
        return {"set_weight": self.value}, Rule()

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        return None if self.reshapes or _same(self.value.shape, shape) else _differs(self.value, shape)

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        if strength == 0:
            return torch.zeros(weight.shape, dtype=dtype, device=weight.device)
        return self.value.to(dtype).reshape(weight.shape) - weight.to(dtype)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        if self.reshapes:
            return weight if strength == 0 else self.value.to(weight.device, weight.dtype, copy=True)
        value = self.value.reshape(weight.shape)
        return weight.copy_(value if rows is None else rows(value)) if strength != 0 else weight


@register
@dataclass(frozen=True, eq=False)
class Padded(Adapter):
    """``inner`` over the weight padded with zeros to ``shape`` (``reshape_weight``: BFL's FLUX control LoRAs widen ``img_in``)."""

    inner: Adapter
    shape: tuple[int, ...]

    name = "padded"
    needs_weight = True
    suffixes = {".reshape_weight": "reshape_weight"}

    @classmethod
    def wrap(cls, inner: Adapter, parts: Parts) -> Adapter:
        """``inner`` with the padding in ``parts``, or as it is when there is none."""
        if "reshape_weight" not in parts:
            return inner
        sizes = parts.pop("reshape_weight").flatten()
        if sizes.numel() > MAX_AXES or not sizes.double().isfinite().all():
            raise StrataError(f"its reshape_weight holds {sizes.numel()} numbers that are no shape")
        return cls(inner, tuple(int(n) for n in sizes.tolist()))

    def write(self, style: str) -> tuple[Parts, Rule]:
        tensors, rule = self.inner.write(style)
        return {**tensors, ".reshape_weight": torch.tensor(self.shape)}, rule

    def squared_norm(self, shape: tuple[int, ...]) -> float | None:
        return self.inner.squared_norm(self.shape)

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def is_untrained(self) -> bool:
        return self.inner.is_untrained

    @property
    def shape_after(self) -> tuple[int, ...]:
        return self.shape

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) != len(self.shape) or any(new < old for new, old in zip(self.shape, shape, strict=True)):
            return f"it pads to {show(self.shape)}, this weight is {show(shape)}"
        if prod(self.shape) > MAX_GROWTH * prod(shape):
            return f"it pads {show(shape)} to {show(self.shape)}, further than any LoRA has reason to"
        return self.inner.mismatch(self.shape)

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.inner.delta(self._pad(weight), strength, dtype)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        padded = self._pad(weight)
        self.inner.apply_(within(padded, self.shape), strength, dtype, rows)
        return padded

    def _pad(self, weight: Tensor) -> Tensor:
        """A copy, wider where this adapter is wider than what another one has already widened."""
        padded = weight.new_zeros(wider(self.shape, weight.shape))
        within(padded, weight.shape).copy_(weight)
        return padded


def within(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The view of this shape at the beginning of a weight that was padded."""
    return weight if weight.shape == shape else weight[tuple(slice(0, n) for n in shape)]


def wider(shape: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(max, shape, other))


def _same(shape, other) -> bool:
    """Equal but for axes of length 1: a 1x1 convolution stored as a matrix, or the reverse."""
    return [n for n in shape if n != 1] == [n for n in other if n != 1]


def _differs(value: Tensor, shape) -> str:
    return f"it holds a {show(value.shape)} tensor, this weight is {show(shape)}"
