"""DoRA, weight-decomposed LoRA (Liu et al. 2024, arXiv 2402.09353), over any other adapter.

V = W + delta at strength 1, c = magnitude / norm(V) by row (output axis) or by column (input axis), W' = W + strength * (c * V - W).
Strength interpolates between W and the trained weight, so 0 is the base model; the norm is always that of V. ComfyUI 0.30 takes the
norm of W instead on the output axis, and broadcasts PEFT's one-dimensional magnitudes along the wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .base import Adapter, Parts, RowMap, register, show

OUT, IN = 0, 1


@register
@dataclass(frozen=True, eq=False)
class DoRA(Adapter):
    """inner: the adapter whose delta makes V; magnitude [out] for axis 0, [in / groups] for axis 1."""

    inner: Adapter
    magnitude: Tensor
    axis: int

    name = "DoRA"
    suffixes = {
        ".dora_scale": "dora_scale",  # kohya, LyCORIS, OneTrainer
        ".lora_magnitude_vector": "magnitude",  # PEFT
        ".lora_magnitude_vector.weight": "magnitude",
        ".lora_magnitude_vector.*": "magnitude",
        ".lora_magnitude_vector.*.weight": "magnitude",
        ".magnitude": "magnitude",
    }

    @classmethod
    def wrap(cls, inner: Adapter, parts: Parts) -> Adapter:
        """``inner`` under the magnitudes in ``parts``, or ``inner`` as it is when there are none."""
        if (
            "magnitude" in parts
        ):  # PEFT: always the output axis, stored as [out], [out, 1] or, for convolutions, [1, out, 1, 1]
            return cls(inner, parts.pop("magnitude").flatten(), OUT)
        if "dora_scale" in parts:
            scale = parts.pop("dora_scale")
            # LyCORIS writes [out, 1, ...] or [1, in, ...]. Only the shape tells the two apart; [1, 1] cannot be told and is one number.
            axis = IN if scale.ndim > 1 and scale.shape[0] == 1 and scale.numel() > 1 else OUT
            return cls(inner, scale.flatten(), axis)
        return inner

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        return self.inner.matrix_shape

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        expected = shape[self.axis] if len(shape) > 1 else prod(shape)
        if self.magnitude.numel() != expected:
            return f"it has {self.magnitude.numel()} DoRA magnitudes, this weight ({show(shape)}) needs {expected}"
        return self.inner.mismatch(shape)

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._moved(weight, strength, dtype, None) - weight.to(dtype)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        # Norms in half precision are off by up to 0.7 % of the weight itself, more than most LoRAs change.
        return weight.copy_(self._moved(weight, strength, torch.promote_types(dtype, torch.float32), rows))

    def _moved(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None) -> Tensor:
        """W' in ``dtype`` as a new tensor."""
        base = weight.to(dtype)
        delta = self.inner.delta(base, 1.0, dtype)
        along = [1] * weight.ndim
        along[self.axis] = -1
        magnitude = self.magnitude.to(dtype).reshape(along)
        if rows is not None:
            delta = rows(delta)
            magnitude = rows(magnitude) if self.axis == OUT else magnitude
        trained = base + delta
        others = [d for d in range(weight.ndim) if d != self.axis]
        norm = torch.linalg.vector_norm(trained, dim=others, keepdim=True)
        trained *= magnitude / norm.clamp_min(torch.finfo(dtype).tiny)
        return torch.lerp(base, trained, strength)
