"""OFT on the input side, as PEFT (``tuners/oft``, since 0.16) and OneTrainer (``modules/module/oft_utils.py``) train it.

x' = x R with R block-diagonal, so W' = W R^T; blocks are stored as the upper triangles of skew matrices Q. Both trainers default to the
Cayley-Neumann series R = I + 2Q + 2Q^2 + 2Q^3 + Q^4, which is a cut (I + Q)(I - Q)^-1; PEFT's exact form is (I - Q)(I + Q)^-1, the
opposite turn. A file does not say which; PEFT's adapter_config.json does. At other strengths W + s (W' - W): linear.
In a convolution the turned inputs are [in * kernel], and OneTrainer turns the weight the other way, W' = W R. PEFT's own forward for
kernels above 1x1 adds overlapping patches up and is no change of the weight at all: there its ``merge`` is followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..errors import StrataError
from ..layer import Layer
from .base import Adapter, register
from .matrices import show, wide
from .stored import STYLES, Parts, Rule

# Both trainers have this as their default.
NEUMANN_TERMS = 5


@register
@dataclass(frozen=True, eq=False)
class PeftOFT(Adapter):
    """skew [k, b (b - 1) / 2], or [1, ...] shared by all blocks; terms of the series, 0 for the exact form.

    scaled: OneTrainer's "scaled OFT", Q / (2 sqrt(b - 1)). weight_side: OneTrainer's direction in convolutions. turns: what
    ``prepared`` stores, R - I.
    """

    skew: Tensor
    terms: int = NEUMANN_TERMS
    scaled: bool = False
    weight_side: bool = False
    turns: Tensor | None = None

    name = "input OFT"
    needs_weight = True
    suffixes = {".oft_R.weight": "oft_R", ".oft_R.*.weight": "oft_R", ".oft_R.scaled_oft": "scaled_oft"}
    spelled = {style: {"oft_R": ".oft_R.weight", "scaled_oft": ".oft_R.scaled_oft"} for style in STYLES}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> PeftOFT | None:
        if "oft_R" not in parts:
            return None
        skew = parts.pop("oft_R")
        scaled = parts.pop("scaled_oft", None) is not None
        if skew.ndim != 2 or _size(skew) * (_size(skew) - 1) // 2 != skew.shape[1]:
            raise StrataError(f"its oft_R is {show(skew.shape)}, expected (blocks)x(size * (size - 1) / 2)")
        return cls(skew, NEUMANN_TERMS if rule.neumann_terms is None else rule.neumann_terms, scaled, not rule.peft)

    def written(self) -> tuple[Parts, Rule]:
        scaled = {"scaled_oft": torch.tensor(True)} if self.scaled else {}
        terms = None if self.terms == NEUMANN_TERMS else self.terms
        return {"oft_R": self.skew, **scaled}, Rule(neumann_terms=terms, peft=not self.weight_side)

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        size, columns = _size(self.skew), prod(shape[1:])
        fits = columns % size == 0 if self.skew.shape[0] == 1 else columns == size * self.skew.shape[0]
        return (
            None
            if len(shape) > 1 and fits
            else f"it turns {size * self.skew.shape[0]} inputs, this weight is {show(shape)}"
        )

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        turn = self._turns(dtype)
        if weight.ndim == 2 or not self.weight_side:
            turn = turn.transpose(1, 2)
        blocked = weight.to(dtype).reshape(weight.shape[0], -1, turn.shape[1])
        return _blockwise(blocked, turn).mul_(strength).reshape(weight.shape)

    has_forward = True

    def prepared(self, weight: Tensor, groups: int = 1) -> PeftOFT | None:
        if prod(weight.shape[2:]) != 1:
            # The turned patches of a kernel larger than 1 overlap.
            return None
        return replace(self, turns=self._turns(wide(weight.dtype)))

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """f(x R_s), for linear layers and 1x1 convolutions."""
        if prod(layer.kernel) != 1:
            raise NotImplementedError("input OFT has no forward form for kernels above 1x1")
        turn = self._turns(y.dtype)
        if layer.is_conv and self.weight_side:
            turn = turn.transpose(1, 2)
        turned = layer.by_channel(x, lambda v: _blockwise(v.unflatten(-1, (-1, turn.shape[1])), turn).flatten(-2))
        return y + strength * layer.without_bias(layer.base(turned))

    def _turns(self, dtype: torch.dtype) -> Tensor:
        """R - I [k or 1, b, b]."""
        if self.turns is not None:
            return self.turns.to(dtype)
        size = _size(self.skew)
        rows, columns = torch.triu_indices(size, size, 1, device=self.skew.device)
        q = torch.zeros(self.skew.shape[0], size, size, dtype=wide(dtype), device=self.skew.device)
        q[:, rows, columns] = self.skew.to(q.dtype) / (2 * math.sqrt(size - 1) if self.scaled else 1)
        q = q - q.transpose(1, 2)
        if self.terms == 0:
            return torch.linalg.solve_ex(torch.eye(size, dtype=q.dtype, device=q.device) + q, -2 * q).result.to(dtype)
        return _series(q, self.terms).to(dtype)


def _series(q: Tensor, terms: int) -> Tensor:
    """PEFT ``_cayley_batch`` less I: 2Q + 2Q^2 + ... with the last power counted once (so that 3 terms go as far as 4)."""
    total = torch.zeros_like(q) if terms < 2 else 2 * q
    power = q
    last = max(3, terms - 1) if terms > 2 else 1
    for exponent in range(2, last + 1):
        power = power @ q
        total = total + (1 if exponent == last else 2) * power
    return total


def _blockwise(blocked: Tensor, turn: Tensor) -> Tensor:
    """[..., k, b] times [k or 1, b, b]."""
    return torch.einsum("...kb,kbc->...kc", blocked, turn.expand(blocked.shape[-2], -1, -1))


def _size(skew: Tensor) -> int:
    return (1 + math.isqrt(1 + 8 * skew.shape[1])) // 2
