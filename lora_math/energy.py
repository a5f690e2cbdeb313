"""How much an adapter changes, without forming its delta: squared Frobenius norms from the factors."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from .adapters import Adapter, Diff, DoRA, LoHa, LoKr, LoRA, Padded, Sparse
from .adapters.base import TILE
from .adapters.lokr import LoKrConv1d

CHUNK = 4096  # columns that are cast at once: as many as a processor's cache holds at a usual rank


def squared_norm(adapter: Adapter, shape: tuple[int, ...]) -> float | None:
    """||delta W||_F^2 at strength 1 for a weight of this shape; None where it depends on W itself (DoRA's rescaling, OFT, IA3).

    For up @ down it is sum((up^T up) * (down down^T)), O((out + in) rank^2), in single precision: all its terms belong to one sum of
    squares, and an editor needs three digits. DoRA counts what it adds before it rescales.
    """
    if isinstance(adapter, (DoRA, Padded)):
        return squared_norm(adapter.inner, adapter.shape if isinstance(adapter, Padded) else shape)
    if adapter.needs_weight:
        return None
    if isinstance(adapter, LoKr):  # ||a (x) b|| = ||a|| ||b||
        return adapter.scale**2 * _side(adapter.w1) * _side(adapter.w2)
    if isinstance(adapter, LoKrConv1d):
        return adapter.scale**2 * _side(adapter.w1) * _sum_of_squares(adapter.w2)
    if isinstance(adapter, Diff):
        return adapter.scale**2 * _sum_of_squares(adapter.value)
    if isinstance(adapter, Sparse):
        return _sum_of_squares(adapter.values)
    if isinstance(adapter, LoHa):
        return adapter.scale**2 * _hadamard(*adapter.halves(torch.float32))
    if isinstance(adapter, LoRA):
        up, down = (adapter.up, adapter.down) if adapter.mid is None else adapter.matrices(torch.float32)
        up, down = up.flatten(1), down.flatten(1)
        if len(down) * (len(up) + down.shape[1]) < prod(shape):  # else multiplying out is less work
            return adapter.scale**2 * _product(up, down)
    return _sum_of_squares(adapter.delta(torch.empty(shape), 1.0, torch.float32))


def _hadamard(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """|| (up1 @ down1) o (up2 @ down2) ||^2, some rows at a time."""
    (up1, down1), (up2, down2) = first, second
    height = max(1, TILE // max(1, down1.shape[1]))
    rows = zip(up1.split(height), up2.split(height), strict=True)
    return sum(_sum_of_squares((left @ down1).mul_(right @ down2)) for left, right in rows)


def _product(up: Tensor, down: Tensor) -> float:
    return max(float((_gram(up.T) * _gram(down)).sum(dtype=np.float64)), 0.0)


def _gram(rows: Tensor) -> np.ndarray:
    """rows @ rows.T [r, r] of rows [r, n] in single precision. NumPy knows the product of a matrix with its own transpose for a
    symmetric one and computes half of it (BLAS syrk), which PyTorch does not offer."""
    found = np.zeros((len(rows), len(rows)), np.float32)
    for part in rows.split(CHUNK, 1):
        wide = part.float().numpy(force=True)
        found += wide @ wide.T
    return found


def _sum_of_squares(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.to(torch.float32), dtype=torch.float32).double().square())


def _side(side: tuple[Tensor, ...]) -> float:
    """Squared norm of one side of a Kronecker product: whole, a product, or a Tucker product."""
    if len(side) == 1:
        return _sum_of_squares(side[0])
    if len(side) == 2:
        return _product(side[0].flatten(1), side[1].flatten(1))
    a, b, core = (tensor.float() for tensor in side)
    return _sum_of_squares(torch.einsum("pqk,pi,qj->ijk", core.reshape(*core.shape[:2], -1), a, b))
