"""Merging entry by entry, over dense tensors. The result has full rank whatever went in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

# How far, in DELLA, the chance to be dropped moves between the smallest and the largest entry.
WINDOW = 0.3


def combine(tensors: Iterable[Tensor], weights: Sequence[float], method: str, density: float, seed: int) -> Tensor:
    """One tensor from several of one shape. The weights, signs included, come first: a negative one votes for the opposite.

    tensors: gone through once or twice, one held at a time.
    ties (Yadav et al. 2023, arXiv 2306.01708): each cut to its largest entries, the sign of the sum elected, the mean of those that
    agree. magnitude: each cut to its largest entries, then added. dare (Yu et al. 2023, arXiv 2311.03099): entries dropped at random, the
    rest divided by the density, then added. della (Deep et al. 2024, arXiv 2406.11617): as dare, the smaller the likelier to be dropped.
    """
    generator = torch.Generator().manual_seed(seed)
    scaled = lambda: (tensor * weight for tensor, weight in zip(tensors, weights, strict=True))  # noqa: E731
    if method == "dare":
        return _total(t * (torch.rand(t.shape, generator=generator) < density) / density for t in scaled())
    if method == "della":
        return _total(_della(t, density, generator) for t in scaled())
    if method == "magnitude":
        return _total(_above(t, _threshold(t, density)) for t in scaled())
    thresholds: list[float] = []

    def first_round() -> Iterator[Tensor]:
        for tensor in scaled():
            thresholds.append(_threshold(tensor, density))
            yield _above(tensor, thresholds[-1])

    elected = _total(first_round()).sign_()
    found, count = torch.zeros_like(elected), torch.zeros_like(elected, dtype=torch.int32)
    for tensor, threshold in zip(scaled(), thresholds, strict=True):
        kept = _above(tensor, threshold)
        agreeing = (kept != 0) & (kept.sign() == elected)
        found += kept.mul_(agreeing)
        count += agreeing
    return found / count.clamp_min(1)


def _total(tensors: Iterable[Tensor]) -> Tensor:
    found = None
    for tensor in tensors:
        found = tensor if found is None else found.add_(tensor)
    return found


def _threshold(tensor: Tensor, density: float) -> float:
    """The size of the smallest of its largest entries, of which there are so many of all."""
    keep = max(1, round(density * tensor.numel()))
    if keep >= tensor.numel():
        return 0.0
    return float(tensor.abs().flatten().kthvalue(tensor.numel() - keep + 1).values)


def _above(tensor: Tensor, threshold: float) -> Tensor:
    return torch.where(tensor.abs() >= threshold, tensor, 0)


def _della(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    count = tensor.numel()
    ranks = torch.empty(count, dtype=tensor.dtype)
    ranks[tensor.abs().flatten().argsort()] = torch.linspace(-0.5, 0.5, count, dtype=tensor.dtype)
    window = min(WINDOW, 2 * density, 2 * (1 - density))
    chance = (density + window * ranks).clamp(1e-3, 1).reshape(tensor.shape)
    return tensor * (torch.rand(tensor.shape, generator=generator) < chance) / chance
