"""Gram matrices of long rows; squared Frobenius norms of tensors and of products that are never formed, in single precision: for amounts
that a person looks at."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows of a Gram matrix at once: narrower ones save less than their calls cost.
BAND = 64
# Numbers of rows that one thread works on at a time: few enough for its cache, so many that threads seldom wait for each other, which on
# a busy machine costs more than the products.
CHUNK = 6144 * 128
# Columns of which one number of the matrix is summed up at once: in single precision more would be seen.
LONGEST = 1 << 16
# Numbers of a factor for which calls cost more than the half of the products that ``upper_gram`` saves.
FEW = 1536 * 128


def product_norm(up: Tensor, down: Tensor) -> float:
    """||up @ down||_F^2 = sum((up^T up) * (down down^T)) of up [out, r], down [r, in]; O((out + in) r^2)."""
    if max(up.numel(), down.numel()) <= FEW:
        up, down = up.float(), down.float()
        return max(float((up.T @ up).mul_(down @ down.T).sum(dtype=torch.float64)), 0.0)
    together = upper_gram(up.T) * upper_gram(down)
    twice = together.triu(1).sum(dtype=torch.float64)
    return max(float(2 * twice + together.diagonal().sum(dtype=torch.float64)), 0.0)


def upper_gram(rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """rows @ rows.T [r, r] of rows [r, n], computed in ``dtype``, only right of and on the diagonal: it is symmetric.

    A small product of long rows leaves little to share between threads; of a batch of shorter ones each thread has its own.
    """
    found = torch.zeros(len(rows), len(rows), dtype=dtype)
    threads = torch.get_num_threads()
    width = max(min(CHUNK // max(1, len(rows)), LONGEST, rows.shape[1] // threads), 1)
    for part in rows.split(width * threads, 1):
        wide, count = cast(part, dtype), part.shape[1] // width
        batched = count * (part.shape[1] // count) if count > 1 else 0
        for start in range(0, len(rows), BAND):
            band = found[start : start + BAND, start:]
            if batched:
                batch = wide[start:, :batched].unflatten(1, (count, -1)).transpose(0, 1)
                band += torch.bmm(batch[:, :BAND], batch.mT).sum(0)
            if batched < part.shape[1]:
                band.addmm_(wide[start : start + BAND, batched:], wide[start:, batched:].T)
    return found


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``: exact, and from half to double precision six times as fast, as PyTorch does that step number by number."""
    return tensor.float().to(dtype) if tensor.dtype == torch.float16 else tensor.to(dtype)


def sum_of_squares(tensor: Tensor) -> float:
    """Of all numbers of a tensor of any type."""
    return float(torch.linalg.vector_norm(tensor.to(torch.float32), dtype=torch.float32).double().square())
