"""LoRA (Hu et al. 2021, arXiv 2106.09685), its convolution form (LoCon) and its Tucker form (FedPara / LyCORIS ``lora_mid``).

delta W = strength * scale * up @ down, with the weight flattened to [out, in * kernel].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..layer import Layer
from .base import Adapter, Parts, RowMap, Scaling, register, show


@register
@dataclass(frozen=True, eq=False)
class LoRA(Adapter):
    """up [out, rank(, 1...)], down [rank, in / groups(, *kernel)], or Tucker: mid [rank, rank, *kernel] and down [rank, in(, 1...)]."""

    up: Tensor
    down: Tensor
    mid: Tensor | None = None
    scale: float = 1.0

    name = "LoRA"
    suffixes = {
        ".lora_up.weight": "lora_up",  # kohya, LyCORIS, OneTrainer
        ".lora_down.weight": "lora_down",
        ".lora_mid.weight": "lora_mid",
        "_lora.up.weight": "lora_up",  # diffusers attention processors
        "_lora.down.weight": "lora_down",
        ".lora.up.weight": "lora_up",  # diffusers
        ".lora.down.weight": "lora_down",
        ".lora_linear_layer.up.weight": "lora_up",  # diffusers text encoders
        ".lora_linear_layer.down.weight": "lora_down",
        ".lora_B.weight": "lora_up",  # PEFT
        ".lora_A.weight": "lora_down",
        ".lora_B.*.weight": "lora_up",
        ".lora_A.*.weight": "lora_down",
        ".lora_B": "lora_up",  # Mochi
        ".lora_A": "lora_down",
    }

    @classmethod
    def parse(cls, parts: Parts, scaling: Scaling) -> LoRA | None:
        if "lora_up" not in parts or "lora_down" not in parts:
            return None
        scale = scaling.scale(parts["lora_down"].shape[0] if parts["lora_down"].ndim else 0)
        return cls(parts.pop("lora_up"), parts.pop("lora_down"), parts.pop("lora_mid", None), scale)

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def tucker(self) -> bool:
        return self.mid is not None

    @property
    def matrix_shape(self) -> tuple[int, int]:
        kernel = prod(self.mid.shape[2:]) if self.mid is not None else 1
        return self.up.shape[0], prod(self.down.shape[1:]) * kernel

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        tensors = [t for t in (self.up, self.down, self.mid) if t is not None]
        if any(t.ndim < 2 for t in tensors):
            return f"its factors are not matrices ({' and '.join(show(t.shape) for t in tensors)})"
        rank = prod(self.up.shape[1:])
        if rank != self.down.shape[0]:
            return f"up has rank {rank}, down has rank {self.down.shape[0]}"
        if self.mid is not None and self.mid.shape[:2] != (rank, rank):
            return f"mid is {show(self.mid.shape)}, expected {rank}x{rank}x(kernel)"
        out, columns = self.matrix_shape
        if not shape or out != shape[0] or columns != prod(shape[1:]):
            return f"it changes a {out}x{columns} weight, this one is {show(shape)}"
        return None

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        up, down = self._matrices(dtype)
        return (up if self.scale == 1 else up * self.scale), down

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        up, down = self._matrices(dtype)
        return (up @ down).mul_(strength * self.scale).reshape(weight.shape)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        # One product that lands in the weight, with no full-size temporary. Casting factors to fp16 is left to the slow way: small
        # ones would fall below its smallest normal number.
        exact = weight.dtype in (dtype, self.up.dtype) or weight.dtype in (torch.float32, torch.float64)
        matrix = as_matrix(weight)
        if rows is not None or matrix is None or not exact:
            return super().apply_(weight, strength, dtype, rows)
        up, down = self._matrices(weight.dtype)
        matrix.addmm_(up, down, alpha=strength * self.scale)
        return weight

    has_forward = True

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        up, down = self.factors(y.dtype)
        return y + strength * layer.product(x, up, down)

    def _matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(up [out, rank], down [rank, in * kernel]) in ``dtype``, scale not folded in. Tucker's core goes into down, exactly."""
        if self.mid is None:
            return self.up.to(dtype).flatten(1), self.down.to(dtype).flatten(1)
        # down'[p, (i, k)] = sum_q mid[p, q, k] down[q, i], never in half precision
        wide = torch.promote_types(dtype, torch.float32)
        mid, down = self.mid.to(wide).flatten(2), self.down.to(wide).flatten(1)
        return self.up.to(dtype).flatten(1), torch.einsum("pqk,qi->pik", mid, down).flatten(1).to(dtype)


def as_matrix(weight: Tensor) -> Tensor | None:
    """A view [out, in * kernel] of the weight, None where its memory layout allows none (channels last)."""
    try:
        return weight.view(weight.shape[0], -1)
    except RuntimeError:
        return None
