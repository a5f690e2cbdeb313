"""How large the numbers in a tensor are."""

from __future__ import annotations

import torch
from torch import Tensor

# Far beyond any strength that means something, far below what overflows where it meets a file's numbers.
FURTHEST = 1e6


def largest(tensor: Tensor) -> float:
    """The largest absolute value of real numbers: NaN where there is one, 0 for an empty tensor. One pass, one wait for a GPU."""
    if tensor.numel() == 0:
        return 0.0
    # fp8 and unsigned integers have no arithmetic of their own.
    if tensor.itemsize == 1 or not tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    low, high = torch.stack(torch.aminmax(tensor)).tolist()
    # A NaN is both its least and its greatest.
    return max(-low, high)
