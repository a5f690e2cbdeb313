"""The largest singular values of a dense matrix, by a randomised SVD (Halko, Martinsson and Tropp 2011, arXiv 0909.4061)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..low_rank import SVD

# Directions beyond those that are asked for.
OVERSAMPLED = 16
# Power iterations, each with QR so that small singular values keep their digits.
POWERS = 2


def leading_svd(matrix: Tensor, rank: int, seed: int = 0, powers: int = POWERS) -> SVD:
    """The first ``rank`` singular triplets of a matrix [out, in] in float32 or float64, computed in its own type.

    O(out * in * rank); one more matrix of [max(out, in), rank] in memory, never a second of [out, in]. Exact to rounding where the
    matrix has no more than rank + 16 directions. Nothing is clamped. The same seed gives the same result.
    """
    size = min(matrix.shape)
    width = min(rank + OVERSAMPLED, size)
    # Little is left out: the whole is as cheap.
    if 4 * width >= 3 * size or size <= 64:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return SVD(u[:, :rank], s[:rank], vh[:rank])
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], width, generator=generator, dtype=matrix.dtype).to(matrix.device)
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(powers):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ basis).Q).Q
    u, s, vh = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    return SVD(basis @ u[:, :rank], s[:rank], vh[:rank])
