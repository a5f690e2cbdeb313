"""BOFT on the input side, as PEFT trains it (``tuners/boft/layer.py``; Liu et al. 2023, arXiv 2311.06243).

W' = s * W R^T, R = F_n ... F_1, F_i = P_i B_i P_i^T with B_i block-diagonal rotations (I - S)(I + S)^-1, S = (boft_R - boft_R^T) / 2,
and P_i the i-th butterfly permutation; convolution weights as [out, in * kernel]. At other strengths every stage is I + strength (F - I)
and the scale 1 + strength (s - 1), as for LyCORIS's BOFT: a polynomial, W at 0, the trained weight at 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..errors import StrataError
from ..layer import Layer
from .base import Adapter, register
from .matrices import show, wide
from .stored import PEFT, Parts, Rule


@register
@dataclass(frozen=True, eq=False)
class PeftBOFT(Adapter):
    """blocks [stages, k, b, b] with k * b inputs, s [out]; turns: what ``prepared`` stores, B - I by block."""

    blocks: Tensor
    s: Tensor
    turns: Tensor | None = None

    name = "input BOFT"
    needs_weight = True
    is_linear = False
    suffixes = {".boft_R": "boft_R", ".boft_R.*": "boft_R", ".boft_s": "boft_s", ".boft_s.*": "boft_s"}
    together = (("boft_R", "boft_s"),)
    spelled = {PEFT: {"boft_R": ".boft_R", "boft_s": ".boft_s"}}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> PeftBOFT | None:
        if "boft_R" not in parts or "boft_s" not in parts:
            return None
        blocks, s = parts.pop("boft_R"), parts.pop("boft_s")
        if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3] or (blocks.shape[0] > 1 and blocks.shape[2] % 2):
            raise StrataError(f"its boft_R is {show(blocks.shape)}, expected (stages)x(blocks)x(size)x(size)")
        return cls(blocks, s.flatten())

    def written(self) -> tuple[Parts, Rule]:
        return {"boft_R": self.blocks, "boft_s": self.s}, Rule(peft=True)

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        stages, count, size, _ = self.blocks.shape
        if len(shape) < 2 or count * size != prod(shape[1:]) or self.s.numel() != shape[0]:
            return f"it changes a {self.s.numel()}x{count * size} weight, this one is {show(shape)}"
        return f"{count} blocks do not divide into {stages} stages" if count % 2 ** (stages - 1) else None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        base = weight.to(dtype).flatten(1)
        added = torch.zeros_like(base)
        # Here w R^T = w F_1^T ... F_n^T.
        for stage, turn in enumerate(self._turns(dtype)):
            added += strength * self._stage(base + added, turn.transpose(1, 2), stage)
        added += strength * (self.s.to(dtype) - 1)[:, None] * (base + added)
        return added.reshape(weight.shape)

    has_forward = True

    def prepared(self, weight: Tensor, groups: int = 1) -> PeftBOFT | None:
        if prod(weight.shape[2:]) != 1:
            # The turned patches of a kernel larger than 1 overlap.
            return None
        return replace(self, turns=self._turns(wide(weight.dtype)))

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """s (f(x R) - b) + b, for linear layers and 1x1 convolutions."""
        if prod(layer.kernel) != 1:
            raise NotImplementedError("input BOFT has no forward form for kernels above 1x1")
        turns = self._turns(y.dtype)

        def change(v: Tensor) -> Tensor:
            added = torch.zeros_like(v)
            # And here x R = x F_n ... F_1, in the opposite order.
            for stage in reversed(range(len(turns))):
                added = added + strength * self._stage(v + added, turns[stage], stage)
            return added

        turned = layer.without_bias(layer.base(layer.by_channel(x, change)))
        scale = layer.channels((self.s.to(wide(y.dtype)) - 1).to(y.dtype))
        return y + turned + strength * scale * (layer.without_bias(y) + turned)

    def _turns(self, dtype: torch.dtype) -> Tensor:
        """B - I [stages, k, b, b]."""
        if self.turns is not None:
            return self.turns.to(dtype)
        skew = self.blocks.to(wide(dtype))
        skew = (skew - skew.transpose(-1, -2)) / 2
        unit = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve_ex(unit + skew, -2 * skew).result.to(dtype)

    def _stage(self, v: Tensor, turn: Tensor, stage: int) -> Tensor:
        """v (F - I) for v [..., in], F = P B P^T and ``turn`` = B - I."""
        count, size, _ = turn.shape
        order = _butterfly(count, size, stage, self.blocks.shape[0], v.device)
        gathered = v[..., torch.argsort(order)].unflatten(-1, (count, size))
        return torch.einsum("...kb,kbc->...kc", gathered, turn).flatten(-2)[..., order]


def _butterfly(count: int, size: int, stage: int, stages: int, device: torch.device) -> Tensor:
    """PEFT ``block_butterfly_perm`` [in]: in runs of 2^stage blocks, the even half blocks before the odd ones. A single stage has none."""
    inputs = torch.arange(count * size, device=device)
    if stages == 1:
        return inputs
    halves = inputs.reshape(count // 2**stage, -1, size // 2)
    return torch.cat([halves[:, 0::2], halves[:, 1::2]], 1).flatten()
