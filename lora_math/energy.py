"""How much an adapter changes, without forming its delta: squared Frobenius norms from the factors."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from .adapters import Adapter, Diff, DoRA, LoHa, LoKr, LoRA, Padded, Sparse
from .adapters.base import TILE
from .adapters.lokr import LoKrConv1d

BAND = 64  # rows of a Gram matrix at once: narrower ones save less than their calls cost
CHUNK = 1536 * 128  # numbers of it that one thread works on at a time: its cache holds them
ROUND = 4  # chunks for each thread that are cast together


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
    """||up @ down||^2 of up [out, r], down [r, in]."""
    if max(up.numel(), down.numel()) <= CHUNK:  # the calls cost more than the half of the products that they save
        up, down = up.float(), down.float()
        return max(float((up.T @ up).mul_(down @ down.T).sum(dtype=torch.float64)), 0.0)
    together = _gram(up.T) * _gram(down)
    twice = together.triu(1).sum(dtype=torch.float64)
    return max(float(2 * twice + together.diagonal().sum(dtype=torch.float64)), 0.0)


def _gram(rows: Tensor) -> Tensor:
    """rows @ rows.T [r, r] of rows [r, n] in single precision, only right of and on the diagonal: it is symmetric.

    A small product of long rows leaves little to share between threads; of a batch of shorter ones each thread has its own.
    """
    found = torch.zeros(len(rows), len(rows))
    width = max(CHUNK // max(1, len(rows)), 1)
    for part in rows.split(ROUND * width * torch.get_num_threads(), 1):
        wide, count = part.float(), part.shape[1] // width
        batched = count * (part.shape[1] // count) if count > 1 else 0
        for start in range(0, len(rows), BAND):
            band = found[start : start + BAND, start:]
            if batched:
                batch = wide[start:, :batched].unflatten(1, (count, -1)).transpose(0, 1)
                band += torch.bmm(batch[:, :BAND], batch.mT).sum(0)
            if batched < part.shape[1]:
                band.addmm_(wide[start : start + BAND, batched:], wide[start:, batched:].T)
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
