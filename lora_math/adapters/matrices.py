"""What the formulas of several adapters share: weights as matrices, products added to them, how precisely."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Reorders the rows of a delta, and is its own inverse: the scale/shift swap of diffusers' norm_out.
RowMap = Callable[[Tensor], Tensor]
# How many entries of a delta exist at one time while it is added to a weight piece by piece.
TILE = 1 << 22


def show(shape) -> str:
    """A shape as people write it: 320x768."""
    return "x".join(str(n) for n in shape) or "one number"


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least single precision: float64 for float64, float32 for every other type, 8-bit ones included."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_matrix(weight: Tensor) -> Tensor | None:
    """A view [out, in * kernel] of the weight, None where its memory layout allows none (channels last)."""
    try:
        return weight.view(weight.shape[0], -1)
    except RuntimeError:
        return None


def landing(weight: Tensor, dtype: torch.dtype) -> Tensor | None:
    """``as_matrix(weight)`` where a delta may be added straight into the weight in the weight's own dtype, else None.

    In half precision only when the caller asked for it: small factors would fall below fp16's smallest normal number.
    """
    return as_matrix(weight) if weight.dtype in (dtype, torch.float32, torch.float64) else None


def add_product_(weight: Tensor, up: Tensor, down: Tensor, scale: float) -> None:
    """weight += scale * up @ down, with the weight flattened to [out, in * kernel], and no temporary of the weight's size.

    up [out, rank] and down [rank, in * kernel] of one dtype, float32 or wider; weight: any float dtype, a view or channels last.
    In half precision the product is rounded once, as it is added: rounded factors would fall below fp16's smallest normal number.
    """
    matrix = as_matrix(weight) if weight.dtype == up.dtype else None
    if matrix is not None:
        matrix.addmm_(up, down, alpha=scale)
        return
    height = max(1, TILE // max(1, down.shape[1]))
    for part, some in zip(weight.split(height), up.split(height), strict=True):
        part.add_((some @ down).reshape(part.shape), alpha=scale)


def fold_core(core: Tensor, down: Tensor, dtype: torch.dtype) -> Tensor:
    """Tucker's core contracted into the input side, exactly: down'[p, (i, k)] = sum_q core[p, q, k] down[q, i].

    core [r, r, *kernel], down [r, in(, 1...)]; returns [r, in * kernel].
    """
    # At least single precision, as the sum is not the last thing that is rounded.
    precise = wide(dtype)
    flat = core.to(precise).reshape(*core.shape[:2], -1)
    return torch.einsum("pqk,qi->pik", flat, down.to(precise).flatten(1)).flatten(1).to(dtype)


def times(tensor: Tensor, factor: float) -> Tensor:
    """In at least single precision; the tensor itself where the factor is 1."""
    return tensor if factor == 1 else tensor.to(wide(tensor.dtype)) * factor


def product_spectrum_work(out: int, columns: int, rank: int) -> float:
    """Multiplications for the singular values of a product of this rank: two symmetric Gram matrices, and ten times the cube for the
    eigenvalues between them."""
    return (out + columns) * rank**2 / 2 + 10.0 * rank**3
