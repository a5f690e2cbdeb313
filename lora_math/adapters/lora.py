"""LoRA (Hu et al. 2021, arXiv 2106.09685), its convolution form (LoCon) and its Tucker form (FedPara / LyCORIS ``lora_mid``).

delta W = strength * scale * up @ down, with the weight flattened to [out, in * kernel].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ..energy import cast, product_norm
from ..errors import StrataError
from ..extremes import largest
from ..layer import Layer
from ..low_rank import singular_values_of
from .base import Adapter, register
from .matrices import RowMap, add_product_, fold_core, show, times, wide
from .stored import KOHYA, PEFT, Parts, Rule, alpha_for


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
        # kohya, LyCORIS and OneTrainer.
        ".lora_up.weight": "lora_up",
        ".lora_down.weight": "lora_down",
        ".lora_mid.weight": "lora_mid",
        # diffusers' attention processors of old.
        "_lora.up.weight": "lora_up",
        "_lora.down.weight": "lora_down",
        # diffusers since.
        ".lora.up.weight": "lora_up",
        ".lora.down.weight": "lora_down",
        # diffusers' text encoders.
        ".lora_linear_layer.up.weight": "lora_up",
        ".lora_linear_layer.down.weight": "lora_down",
        # PEFT.
        ".lora_B.weight": "lora_up",
        ".lora_A.weight": "lora_down",
        ".lora_B.*.weight": "lora_up",
        ".lora_A.*.weight": "lora_down",
        # Mochi's own trainer, and AdaLoRA in PEFT with its lora_E.
        ".lora_B": "lora_up",
        ".lora_A": "lora_down",
        ".lora_E": "lora_E",
        ".lora_B.*": "lora_up",
        ".lora_A.*": "lora_down",
        ".lora_E.*": "lora_E",
    }
    together = (("lora_up", "lora_down"),)
    spelled = {
        KOHYA: {"lora_up": ".lora_up.weight", "lora_down": ".lora_down.weight", "lora_mid": ".lora_mid.weight"},
        PEFT: {"lora_up": ".lora_B.weight", "lora_down": ".lora_A.weight"},
    }

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> LoRA | None:
        if "lora_up" not in parts or "lora_down" not in parts:
            return None
        up, down = parts.pop("lora_up"), parts.pop("lora_down")
        if min(up.ndim, down.ndim) < 2:
            raise StrataError(f"its factors are not matrices ({show(up.shape)} and {show(down.shape)})")
        # AdaLoRA (Zhang et al. 2023, arXiv 2303.10512) is up @ diag(E) @ down.
        if "lora_E" in parts:
            values = parts.pop("lora_E")
            if values.numel() != down.shape[0]:
                raise StrataError(f"its lora_E has {values.numel()} numbers for rank {down.shape[0]}")
            precise = wide(down.dtype)
            down = down.to(precise) * values.to(precise).reshape(-1, *[1] * (down.ndim - 1))
        return cls(up, down, parts.pop("lora_mid", None), rule.scale(down.shape[0]))

    def forms(self) -> Iterator[str]:
        yield self.name
        if self.mid is not None and self.mid.ndim != 4:
            yield "LoRA in Tucker form with 1 or 3 dimensions"

    def unscaled(self) -> LoRA:
        return replace(self, up=times(self.up, self.scale), scale=1.0)

    def written(self) -> tuple[Parts, Rule]:
        core = {} if self.mid is None else {"lora_mid": self.mid}
        return {"lora_up": self.up, "lora_down": self.down, **core}, alpha_for(self.scale, self.rank)

    @cached_property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        kernel = prod(self.mid.shape[2:]) if self.mid is not None else 1
        return self.up.shape[0], prod(self.down.shape[1:]) * kernel

    @property
    def weight_shape(self) -> tuple[int, ...]:
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    @cached_property
    def reach(self) -> float:
        factors = (self.up, self.down) if self.mid is None else (self.up, self.mid, self.down)
        terms = len(self.down) ** (len(factors) - 1)
        return abs(self.scale) * terms * prod(map(largest, factors))

    @property
    def is_idle(self) -> bool:
        # One row of nearly any file tells.
        return self.scale == 0 or (largest(self.up[:1]) == 0 and self.reach == 0)

    def reach_within(self, largest: float) -> float:
        factors = 2 if self.mid is None else 3
        # A factor may be the product of two of the file's (``lora_E``).
        return abs(self.scale) * self.rank ** (factors - 1) * max(largest, largest**2) ** factors

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
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
        up, down = self.matrices(dtype)
        return (up if self.scale == 1 else up * self.scale), down

    @property
    def factor_rank(self) -> int:
        return self.rank

    @property
    def plain_product(self) -> tuple[Tensor, Tensor, float] | None:
        return None if self.mid is not None else (self.up.flatten(1), self.down.flatten(1), self.scale)

    def singular_values(self) -> Tensor:
        up, down, scale = self.plain_product or (*self.matrices(torch.float64), self.scale)
        return singular_values_of(up, down) * abs(scale)

    def squared_norm(self, shape: tuple[int, ...]) -> float | None:
        up, down = (self.up, self.down) if self.mid is None else self.matrices(torch.float32)
        up, down = up.flatten(1), down.flatten(1)
        # Multiplying out is less work.
        if len(down) * (len(up) + down.shape[1]) >= prod(shape):
            return super().squared_norm(shape)
        return self.scale**2 * product_norm(up, down)

    def cut(self, start: int, length: int, total: int) -> LoRA | None:
        return replace(self, up=self.up.narrow(0, start, length)) if self.up.shape[0] == total else None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        up, down = self.matrices(dtype)
        return (up @ down).mul_(strength * self.scale).reshape(weight.shape)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        up, down = self.matrices(torch.promote_types(weight.dtype, torch.promote_types(dtype, torch.float32)))
        add_product_(weight, up if rows is None else rows(up), down, strength * self.scale)
        return weight

    is_product = True

    def product(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, float]:
        own = wide(self.mid.dtype) if self.mid is not None else None
        if dtype is None and own is None:
            return self.up.flatten(1), self.down.flatten(1), self.scale
        return *self.matrices(dtype or own), self.scale

    has_forward = True

    def prepared(self, weight: Tensor, groups: int = 1) -> LoRA:
        if self.mid is None:
            return self
        up, down = self.matrices(wide(weight.dtype))
        return LoRA(up, down, None, self.scale)

    def response(self, layer: Layer, x: Tensor) -> Tensor:
        return layer.product(x, *self.factors(x.dtype))

    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(up [out, rank], down [rank, in * kernel]) in ``dtype``, the scale not in them."""
        up = cast(self.up, dtype).flatten(1)
        return up, cast(self.down, dtype).flatten(1) if self.mid is None else fold_core(self.mid, self.down, dtype)
