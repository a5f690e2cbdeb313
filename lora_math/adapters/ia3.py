"""(IA)^3, learned scales of a layer's input or output (Liu et al. 2022, arXiv 2205.05638; LyCORIS ``modules/ia3.py``, PEFT).

W' = (1 + strength * w) W by row (output side) or by column (input side). LyCORIS stores w, PEFT stores 1 + w. LyCORIS leaves the bias
alone; PEFT scales the whole output, the bias included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StrataError
from ..layer import Layer
from .base import Adapter, register
from .matrices import RowMap, show, wide
from .stored import KOHYA, PEFT, Parts, Rule


@register
@dataclass(frozen=True, eq=False)
class IA3(Adapter):
    """w [out] or [in]; on_input None where only its length can tell the side. with_bias: the output's scale is the bias's too."""

    w: Tensor
    on_input: bool | None
    with_bias: bool = False

    name = "IA3"
    needs_weight = True
    # LyCORIS's w is a plain ".weight", which ``reading.state_dict`` tells by the key beside it.
    suffixes = {
        ".on_input": "on_input",
        ".ia3_l": "ia3_l",
        ".ia3_l.*": "ia3_l",
    }
    together = (("on_input", "ia3_weight"),)
    spelled = {KOHYA: {"on_input": ".on_input", "ia3_weight": ".weight"}, PEFT: {"ia3_l": ".ia3_l"}}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> IA3 | None:
        if "on_input" in parts and "ia3_weight" in parts:
            flag = parts.pop("on_input")
            if flag.numel() != 1:
                raise StrataError(f"its on_input is not one number but {flag.numel()}")
            return cls(parts.pop("ia3_weight").flatten(), bool(flag))
        if "ia3_l" in parts:
            scales = parts.pop("ia3_l")
            on_input = rule.on_input
            # PEFT stores [1, in] and [out, 1], but [1, n, 1...] for either in convolutions.
            if on_input is None and scales.ndim == 2:
                on_input = scales.shape[0] == 1
            return cls(scales.flatten().float() - 1, on_input, on_input is not True)
        return None

    def written(self) -> tuple[Parts, Rule]:
        """LyCORIS's form where the side is known and the bias stays, else PEFT's, in float32 as 1 + w needs the digits."""
        if self.on_input is not None and not self.with_bias:
            return {"ia3_weight": self.w, "on_input": torch.tensor(self.on_input)}, Rule()
        scales = self.w.to(wide(self.w.dtype)) + 1
        return {"ia3_l": scales if self.on_input is None else scales[:, None]}, Rule(peft=True)

    def write(self, style: str) -> tuple[Parts, Rule]:
        # This is the one form that both trainers have.
        if style == PEFT and self.on_input is True:
            return {".ia3_l": (self.w.to(wide(self.w.dtype)) + 1)[None]}, Rule(peft=True, on_input=True)
        return super().write(style)

    def bias_adapter(self) -> IA3 | None:
        return IA3(self.w, False) if self.with_bias else None

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        count = self.w.numel()
        if self._side(shape):
            fits = (
                len(shape) > 1 and shape[1] > 0 and count % shape[1] == 0 and shape[0] % max(1, count // shape[1]) == 0
            )
        else:
            fits = len(shape) > 0 and count == shape[0]
        side = {True: "inputs", False: "outputs", None: "inputs or outputs"}[self.on_input]
        return None if fits and count else f"it scales {count} {side}, this weight is {show(shape)}"

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        return weight.to(dtype) * (self._along(weight.shape, dtype) * strength)

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        factor = self._along(weight.shape, wide(dtype)) * strength + 1
        return weight.mul_(factor if rows is None or factor.shape[0] == 1 else rows(factor))

    has_forward = True

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """f((1 + s w) x) on the input side, (1 + s w)(f(x) - b) + b on the output side."""
        w = self.w.to(y.dtype)
        if self._side(layer.weight_shape):
            return y + strength * layer.without_bias(layer.base(layer.input_channels(w) * x))
        return y + strength * (layer.channels(w) * layer.without_bias(y))

    def _side(self, shape: tuple[int, ...]) -> bool:
        """Whether the input is scaled. A length that fits both sides means the output, PEFT's usual side."""
        return self.on_input if self.on_input is not None else len(shape) > 1 and self.w.numel() != shape[0]

    def _along(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """w shaped to multiply a weight of this shape."""
        w, kernel = self.w.to(dtype), [1] * (len(shape) - 2)
        if not self._side(shape):
            return w.reshape(-1, *[1] * (len(shape) - 1))
        # The rows of a grouped convolution read only their own group's inputs.
        groups = w.numel() // shape[1]
        if groups == 1:
            return w.reshape(1, -1, *kernel)
        return w.reshape(groups, -1).repeat_interleave(shape[0] // groups, 0).reshape(*shape[:2], *kernel)
