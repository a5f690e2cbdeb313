"""The layer that an adapter's forward form runs in: what it computes, and how its two thin products are run on its input."""

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
    """

    base: Callable[[Tensor], Tensor]
    weight_shape: tuple[int, ...]
    bias: Tensor | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def is_conv(self) -> bool:
        return len(self.weight_shape) > 2

    def channels(self, vector: Tensor) -> Tensor:
        """[n] shaped so that it multiplies the channels of this layer's input or output."""
        return vector.reshape(-1, *[1] * (len(self.weight_shape) - 2)) if self.is_conv else vector

    def product(self, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """What a weight change up @ down adds to f(x), without forming it. up [out, rank], down [rank, in / groups * kernel].

        In a grouped convolution each group's outputs read that group's inputs only, while ``down`` is shared by all groups.
        """
        if not self.is_conv:
            return torch.nn.functional.linear(torch.nn.functional.linear(x, down), up)
        kernel = self.weight_shape[2:]
        conv = _CONV[len(kernel)]
        wide = down.reshape(-1, *self.weight_shape[1:])
        narrow = up.reshape(*up.shape, *[1] * len(kernel))
        if self.groups > 1:
            wide = wide.repeat(self.groups, *[1] * (wide.ndim - 1))
        hidden = conv(x, wide, None, self.stride or 1, self.padding or 0, self.dilation or 1, self.groups)
        return conv(hidden, narrow, groups=self.groups)
