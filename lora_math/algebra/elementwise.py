"""Merging entry by entry, over dense tensors. The result has full rank whatever went in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ELEMENTWISE = ("ties", "dare", "della", "magnitude")
WINDOW = 0.3  # DELLA: how far the chance to be dropped moves between the smallest and the largest entry


def combine(tensors: Sequence[Tensor], weights: Sequence[float], method: str, density: float, seed: int) -> Tensor:
    """One tensor from several of one shape. The weights, signs included, come first: a negative one votes for the opposite.

    ties (Yadav et al. 2023, arXiv 2306.01708): each cut to its largest entries, the sign of the sum elected, the mean of those that
    agree. magnitude: each cut to its largest entries, then
    added. dare (Yu et al. 2023, arXiv 2311.03099): entries dropped at random, the rest divided by the density, then added. della (Deep et
    al. 2024, arXiv 2406.11617): as dare, the smaller the likelier to be dropped.
    """
    generator = torch.Generator().manual_seed(seed)
    scaled = [tensor * weight for tensor, weight in zip(tensors, weights, strict=True)]
    if method == "dare":
        return sum(t * (torch.rand(t.shape, generator=generator) < density) / density for t in scaled)
    if method == "della":
        return sum(_della(t, density, generator) for t in scaled)
    kept = [_largest(t, density) for t in scaled]
    if method == "magnitude":
        return sum(kept)
    elected = torch.sign(sum(kept))
    agreeing = [torch.where(torch.sign(t) == elected, t, 0) for t in kept]
    count = sum((t != 0).to(t.dtype) for t in agreeing)
    return sum(agreeing) / count.clamp_min(1)


def _largest(tensor: Tensor, density: float) -> Tensor:
    keep = max(1, round(density * tensor.numel()))
    if keep >= tensor.numel():
        return tensor
    threshold = tensor.abs().flatten().kthvalue(tensor.numel() - keep + 1).values
    return torch.where(tensor.abs() >= threshold, tensor, 0)


def _della(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    count = tensor.numel()
    ranks = torch.empty(count, dtype=tensor.dtype)
    ranks[tensor.abs().flatten().argsort()] = torch.linspace(-0.5, 0.5, count, dtype=tensor.dtype)
    window = min(WINDOW, 2 * density, 2 * (1 - density))
    chance = (density + window * ranks).clamp(1e-3, 1).reshape(tensor.shape)
    return tensor * (torch.rand(tensor.shape, generator=generator) < chance) / chance
