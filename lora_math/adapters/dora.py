"""DoRA, weight-decomposed LoRA (Liu et al. 2024, arXiv 2402.09353), over any other adapter.

V = W + delta at strength 1, c = magnitude / norm(V) by row (output axis) or by column (input axis), W' = W + strength * (c * V - W).
Strength interpolates between W and the trained weight, so 0 is the base model; the norm is always that of V. ComfyUI 0.30 takes the
norm of W instead on the output axis, and broadcasts PEFT's one-dimensional magnitudes along the wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import StrataError
from ..layer import Layer
from .base import Adapter, register
from .matrices import TILE, RowMap, show, wide
from .stored import KOHYA, Parts, Rule

OUT, IN = 0, 1
SMALLEST_NORM = 1e-20


@register
@dataclass(frozen=True, eq=False)
class DoRA(Adapter):
    """inner: the adapter whose delta makes V; magnitude [out] for axis 0, [in / groups] for axis 1; c: what ``prepared`` stores.

    shared: on the input axis, this is a part of the rows of the weight that it was trained on, and its norms are over all of them;
    beyond: [in] squared column norms of V in the other rows, float64, which has to be known then.
    """

    inner: Adapter
    magnitude: Tensor
    axis: int
    c: Tensor | None = None
    shared: bool = False
    beyond: Tensor | None = None

    name = "DoRA"
    needs_weight = True
    prepares_from_weight = True
    suffixes = {
        # kohya, LyCORIS and OneTrainer write this name.
        ".dora_scale": "dora_scale",
        # PEFT writes these.
        ".lora_magnitude_vector": "magnitude",
        ".lora_magnitude_vector.weight": "magnitude",
        ".lora_magnitude_vector.*": "magnitude",
        ".lora_magnitude_vector.*.weight": "magnitude",
        ".magnitude": "magnitude",
    }

    @classmethod
    def wrap(cls, inner: Adapter, parts: Parts) -> Adapter:
        """``inner`` under the magnitudes in ``parts``, or ``inner`` as it is when there are none.

        Raises StrataError where the norms would be other ones at each step: nobody trains such, and what they mean is not known.
        """
        if inner.varies and not parts.keys().isdisjoint(("magnitude", "dora_scale")):
            raise StrataError(f"{next(iter(inner.forms()))} with DoRA magnitudes is not known")
        # PEFT always has the output axis, stored as [out] or, for convolutions, [1, out, 1, 1].
        if "magnitude" in parts:
            return cls(inner, parts.pop("magnitude").flatten(), OUT)
        if "dora_scale" in parts:
            scale = parts.pop("dora_scale")
            # LyCORIS writes [out, 1, ...] or [1, in, ...]. Only the shape tells the two apart; [1, 1] cannot be told and is one number.
            axis = IN if scale.ndim > 1 and scale.shape[0] == 1 and scale.numel() > 1 else OUT
            return cls(inner, scale.flatten(), axis)
        return inner

    def write(self, style: str) -> tuple[Parts, Rule]:
        tensors, rule = self.inner.write(style)
        if style == KOHYA:
            axes = max(tensor.ndim for tensor in tensors.values())
            scale = self.magnitude.reshape([-1 if axis == self.axis else 1 for axis in range(axes)])
            return {**tensors, ".dora_scale": scale}, rule
        if self.axis == IN:
            raise StrataError("DoRA with magnitudes by input cannot be written as PEFT does, which has them by output")
        return {**tensors, ".lora_magnitude_vector": self.magnitude}, rule

    def forms(self) -> Iterator[str]:
        yield self.name
        if self.axis == OUT:
            yield "DoRA by output"
        yield from self.inner.forms()

    def squared_norm(self, shape: tuple[int, ...]) -> float | None:
        return self.inner.squared_norm(shape)

    @property
    def spectrum_work(self) -> float:
        return self.inner.spectrum_work

    @property
    def plain_product(self) -> tuple[Tensor, Tensor, float] | None:
        return self.inner.plain_product

    def singular_values(self) -> Tensor:
        return self.inner.singular_values()

    def cut(self, start: int, length: int, total: int) -> DoRA | None:
        inner = self.inner.cut(start, length, total)
        if inner is None or self.shared:
            return None
        if self.axis == IN:
            return replace(self, inner=inner, shared=True)
        whole = self.magnitude.numel() == total
        return DoRA(inner, self.magnitude.narrow(0, start, length), OUT) if whole else None

    @property
    def awaits(self) -> bool:
        return self.shared and self.beyond is None

    def columns(self, weight: Tensor) -> Tensor:
        """[in] squared column norms of V in these rows, float64. weight: W of these rows."""
        base = weight.to(wide(weight.dtype))
        return self._squares(base, self.inner.delta(base, 1.0, base.dtype)).flatten().to("cpu", torch.float64)

    def knowing(self, beyond: Tensor) -> DoRA:
        return replace(self, beyond=beyond)

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def without_norms(self) -> Adapter:
        return self.inner

    @property
    def is_untrained(self) -> bool:
        return self.inner.is_untrained

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        return self.inner.matrix_shape

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        # A vector has no norms of its own.
        expected = shape[self.axis] if len(shape) > 1 else None
        if self.magnitude.numel() != expected:
            needs = "can have none" if expected is None else f"needs {expected}"
            return f"it has {self.magnitude.numel()} DoRA magnitudes, this weight ({show(shape)}) {needs}"
        return self.inner.mismatch(shape)

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        # (c - 1) W + c D rather than c V - W: what is rounded is the change, not the weight.
        base = weight.to(dtype)
        change = self.inner.delta(base, 1.0, dtype)
        less = self._less(base, change)
        return change.mul_(1 + less).addcmul_(base, less).mul_(strength)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        # Norms in half precision are off by up to 0.7 % of the weight itself, more than most LoRAs change.
        return super().apply_(weight, strength, wide(dtype), rows)

    @property
    def has_forward(self) -> bool:
        return self.inner.has_forward and not self.inner.needs_weight

    def prepared(self, weight: Tensor, groups: int = 1) -> DoRA | None:
        inner = self.inner.prepared(weight, groups) if self.has_forward else None
        if inner is None:
            return None
        base = weight.to(wide(weight.dtype))
        less = self._less(base, self.inner.delta(base, 1.0, base.dtype))
        return replace(self, inner=inner, c=1 + less.flatten())

    @property
    def observed(self) -> Tensor | None:
        return self.c

    def prepared_with(self, observed: Tensor, groups: int = 1) -> DoRA | None:
        inner = self.inner.prepared(torch.empty(0, device="meta"), groups) if self.has_forward else None
        return None if inner is None else replace(self, inner=inner, c=observed)

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """Output axis: y + s ((c - 1)(f(x) - b) + c D(x)); input axis: y + s (f((c - 1) x) - b + D(c x)), D the inner delta.

        Only on what ``prepared`` returns: c depends on W.
        """
        if self.c is None:
            raise ValueError("DoRA's forward form needs prepared(weight) first")
        c, less = self.c.to(y.dtype), (self.c - 1).to(y.dtype)
        if self.axis == OUT:
            change = layer.channels(less) * layer.without_bias(y) + layer.channels(c) * self.inner.response(layer, x)
        else:
            change = layer.without_bias(layer.base(layer.input_channels(less) * x))
            change = change + self.inner.response(layer, layer.input_channels(c) * x)
        return y + strength * change

    def _squares(self, base: Tensor, change: Tensor) -> Tensor:
        """Squared norms of V = base + change along the other axes, shaped to multiply it."""
        height = max(1, TILE * len(base) // max(1, base.numel()))
        across = [d for d in range(base.ndim) if d != self.axis]
        # Small beside c, and the whole weight is multiplied by it: in single precision the norm's rounding would show. Not every
        # kind of device has float64.
        precise = torch.float64 if base.device.type in ("cpu", "cuda") else base.dtype
        squares = [
            (some + delta).square_().sum(across, keepdim=True, dtype=precise)
            for some, delta in zip(base.split(height), change.split(height), strict=True)
        ]
        return torch.cat(squares) if self.axis == OUT else sum(squares)

    def _less(self, base: Tensor, change: Tensor) -> Tensor:
        """c - 1, shaped to multiply V = base + change."""
        if self.awaits:
            raise ValueError("the norms of this DoRA are over rows of other weights too, which it has to be told")
        squares = self._squares(base, change)
        if self.beyond is not None:
            squares = squares + self.beyond.to(squares.device, squares.dtype).reshape(squares.shape)
        norm = squares.sqrt_()
        less = self.magnitude.to(norm.dtype).reshape(norm.shape) - norm
        # A row of zeros stays zero: 0 times anything finite.
        return (less / norm.clamp_min(SMALLEST_NORM)).to(base.dtype)
