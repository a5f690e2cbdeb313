"""The layer that an adapter's forward form runs in: what it computes, and how a change of its weight is run on its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_CONV = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear or convolution layer f(x) = W x + b.

    base: f, the bias included; weight_shape: [out, in] or [out, in / groups, *kernel]; bias: [out] or None.
    Inputs are [..., in] for a linear layer and [batch, in, *space] for a convolution. A string ``padding`` is torch's own.
    convolve: (x, weight) -> the layer's own convolution with another weight and no bias, where it pads in its own way.
    where: [groups, batch, *places of the output] how strongly the change of each group acts at each place; None for everywhere.
    """

    base: Callable[[Tensor], Tensor]
    weight_shape: tuple[int, ...]
    bias: Tensor | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    convolve: Callable[[Tensor, Tensor], Tensor] | None = None
    where: Tensor | None = None

    @property
    def is_conv(self) -> bool:
        return len(self.weight_shape) > 2

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight_shape[2:]

    def channels(self, vector: Tensor) -> Tensor:
        """[n] shaped so that it multiplies the channels of this layer's input or output."""
        return vector.reshape(-1, *[1] * len(self.kernel)) if self.is_conv else vector

    def input_channels(self, vector: Tensor) -> Tensor:
        """[in / groups] or [in], shaped so that it multiplies the channels of the input: every group reads the same one."""
        inputs = self.weight_shape[1] * self.groups
        return self.channels(vector if vector.numel() == inputs else vector.repeat(self.groups))

    def over_places(self, group: int, y: Tensor) -> Tensor | None:
        """``where`` of a group, shaped and typed so that it multiplies an output y."""
        return None if self.where is None else self.where[group].unsqueeze(1 if self.is_conv else -1).to(y.dtype)

    def without_bias(self, y: Tensor) -> Tensor:
        """W x, given y = f(x)."""
        return y if self.bias is None else y - self.channels(self.bias.to(y.dtype))

    def by_channel(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """``change``, which acts on the last axis, applied to the channels of an input or output of this layer."""
        return change(x.movedim(1, -1)).movedim(-1, 1) if self.is_conv else change(x)

    def dense(self, x: Tensor, change: Tensor) -> Tensor:
        """What a weight change, shaped as the weight, adds to f(x)."""
        if not self.is_conv:
            return torch.nn.functional.linear(x, change)
        return self._conv(x, change, self.groups)

    def product(self, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """What a weight change up @ down adds to f(x), without forming it. up [out, rank], down [rank, in / groups * kernel].

        In a grouped convolution each group's outputs read that group's inputs only, while ``down`` is shared by all groups.
        """
        if not self.is_conv:
            return torch.nn.functional.linear(torch.nn.functional.linear(x, down), up)
        narrow = up.reshape(*up.shape, *[1] * len(self.kernel))
        return _CONV[len(self.kernel)](self.inner(x, down), narrow, groups=self.groups)

    def inner(self, x: Tensor, down: Tensor) -> Tensor:
        """down [rank, in / groups * kernel] run on x: [..., rank], or in a convolution [batch, groups * rank, *space]."""
        if not self.is_conv:
            return torch.nn.functional.linear(x, down)
        wide = down.reshape(-1, *self.weight_shape[1:])
        if self.groups > 1:
            wide = wide.repeat(self.groups, *[1] * (wide.ndim - 1))
        return self._conv(x, wide, self.groups)

    def kronecker(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """What the weight change left (x) right adds to f(x). left [a, c], right [b, d * kernel], out = a b, in = c d.

        (left (x) right) x = left unvec(x) right^T, O(c d b + a c b) for each position instead of O(a b c d). Not for grouped layers.
        """
        pieces, width = left.shape[1], self.weight_shape[1] // left.shape[1]
        if not self.is_conv:
            half = torch.nn.functional.linear(x.unflatten(-1, (pieces, width)), right)
            return torch.einsum("ac,...cb->...ab", left, half).flatten(-2)
        pieced = x.unflatten(1, (pieces, width)).flatten(0, 1)
        half = self._conv(pieced, right.reshape(-1, width, *self.kernel), 1).unflatten(0, (-1, pieces))
        return torch.einsum("ac,ncb...->nab...", left, half).flatten(1, 2)

    def _conv(self, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        if self.convolve is not None:
            return self.convolve(x, weight)
        run = _CONV[len(self.kernel)]
        return run(x, weight, None, self.stride or 1, self.padding or 0, self.dilation or 1, groups)
