"""How large the numbers in a tensor are."""

from __future__ import annotations

import torch
from torch import Tensor

FURTHEST = 1e6  # far beyond any strength that means something, far below what overflows where it meets a file's numbers


def largest(tensor: Tensor) -> float:
    """The largest absolute value of real numbers: NaN where there is one, 0 for an empty tensor. One pass, one wait for a GPU."""
    if tensor.numel() == 0:
        return 0.0
    if (
        tensor.itemsize == 1 or not tensor.is_floating_point()
    ):  # fp8 and unsigned integers have no arithmetic of their own
        tensor = tensor.to(torch.float32)
    low, high = torch.stack(torch.aminmax(tensor)).tolist()
    return max(-low, high)  # a NaN is both its least and its greatest
