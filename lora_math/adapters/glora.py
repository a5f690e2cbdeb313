"""GLoRA, generalized LoRA (Chavan et al. 2023, arXiv 2306.07967) as LyCORIS trains it (``modules/glora.py``).

delta W = strength * scale * (W @ a_up @ a_down + b_up @ b_down): a LoRA on the layer's input before the layer, and one beside it.
LyCORIS stores alpha without rsLoRA's root here, unlike in its other algorithms, and nothing else in the file tells: GLoRA trained with
``rs_lora`` comes out weaker by sqrt(rank) in every reader, this one included.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..errors import StrataError
from ..layer import Layer
from ..low_rank import LowRank
from .base import Adapter, register
from .matrices import show
from .stored import KOHYA, Parts, Rule, alpha_for

_ROLES = ("glora_a1", "glora_a2", "glora_b1", "glora_b2")


@register
@dataclass(frozen=True, eq=False)
class GLoRA(Adapter):
    """a_up [in, r(, 1...)], a_down [r, in(, 1...)], b_up [out, r(, 1...)], b_down [r, in(, *kernel)]."""

    a_up: Tensor
    a_down: Tensor
    b_up: Tensor
    b_down: Tensor
    scale: float = 1.0

    name = "GLoRA"
    needs_weight = True
    suffixes = {f".{role[-2:]}.weight": role for role in _ROLES}
    together = (_ROLES,)
    spelled = {KOHYA: {role: f".{role[-2:]}.weight" for role in _ROLES}}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> GLoRA | None:
        if not all(role in parts for role in _ROLES):
            return None
        a1, a2, b1, b2 = tensors = [parts.pop(role) for role in _ROLES]
        if any(tensor.ndim < 2 for tensor in tensors):
            raise StrataError(f"its factors are not matrices ({' and '.join(show(t.shape) for t in tensors)})")
        new = a1.shape[1] == a2.shape[0] == b1.shape[1] == b2.shape[0]
        old = a1.shape[0] == a2.shape[1] == b1.shape[0] == b2.shape[1]
        # LyCORIS before 2.0 named the two halves of each path the other way round.
        if old and not new:
            a1, a2, b1, b2 = a2, a1, b2, b1
        return cls(a1, a2, b1, b2, rule.scale(a2.shape[0]))

    def written(self) -> tuple[Parts, Rule]:
        factors = (self.a_up, self.a_down, self.b_up, self.b_down)
        return dict(zip(_ROLES, factors, strict=True)), alpha_for(self.scale, self.rank)

    @property
    def rank(self) -> int:
        return self.a_down.shape[0]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return self.b_up.shape[0], prod(self.b_down.shape[1:])

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        ranks = {prod(self.a_up.shape[1:]), self.a_down.shape[0], prod(self.b_up.shape[1:]), self.b_down.shape[0]}
        if len(ranks) > 1:
            return f"its factors have different ranks ({', '.join(str(rank) for rank in sorted(ranks))})"
        out, columns = self.matrix_shape
        if len(shape) < 2 or out != shape[0] or columns != prod(shape[1:]):
            return f"it changes a {out}x{columns} weight, this one is {show(shape)}"
        if self.a_up.shape[0] != shape[1] or prod(self.a_down.shape[1:]) != shape[1]:
            return f"it changes {self.a_up.shape[0]} inputs, this weight ({show(shape)}) has {shape[1]}"
        return None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        a_up, a_down, b_up, b_down = self._matrices(dtype)
        mixed = torch.einsum("oi...,ir,rj->oj...", weight.to(dtype), a_up, a_down)
        return mixed.add_((b_up @ b_down).reshape(weight.shape)).mul_(strength * self.scale)

    def low_rank(self, weight: Tensor | None = None) -> LowRank | None:
        """Given W: [W a_up | b_up] @ [a_down; b_down], rank 2 r; in a convolution W a_up once for each position of the kernel."""
        if weight is None:
            return None
        a_up, a_down, b_up, b_down = self._matrices(torch.float64)
        wide = (
            weight.to("cpu", torch.float64).flatten(2)
            if weight.ndim > 2
            else weight.to("cpu", torch.float64)[:, :, None]
        )
        # Its shape is [out, kernel * r].
        left = torch.einsum("oik,ir->okr", wide, a_up.cpu()).flatten(1)
        positions = torch.eye(wide.shape[2], dtype=torch.float64)
        right = torch.einsum("rj,kl->krjl", a_down.cpu(), positions).reshape(left.shape[1], -1)
        return LowRank(torch.cat([left, b_up.cpu()], 1) * self.scale, torch.cat([right, b_down.cpu()], 0))

    has_forward = True

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """f(x + s scale A x) + s scale B x; f is linear but for its bias."""
        a_up, a_down, b_up, b_down = self._matrices(y.dtype)
        mixed = layer.by_channel(
            x, lambda v: torch.nn.functional.linear(torch.nn.functional.linear(v, a_down), a_up * self.scale)
        )
        change = layer.without_bias(layer.base(mixed)) + layer.product(x, b_up * self.scale, b_down)
        return y + strength * change

    def _matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return tuple(tensor.to(dtype).flatten(1) for tensor in (self.a_up, self.a_down, self.b_up, self.b_down))
