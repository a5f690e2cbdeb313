"""Several LoRAs into one. All but the elementwise methods are exact: they never leave the factors.

A LoRA counts as one vector over all its layers: lengths and angles are of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..choices import ELEMENTWISE, METHODS, Method
from ..errors import StrataError
from ..low_rank import LowRank, gram_matrix, side_by_side
from .change import Change, OnDemand, total
from .elementwise import combine

# Of the Karcher mean: the most steps, and the change at which they end.
STEPS, CLOSE = 100, 1e-12

Lora = Mapping[str, Change]


def merge(
    loras: Sequence[Lora],
    weights: Sequence[float],
    method: Method = "sum",
    density: float = 0.5,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Mapping[str, Change]:
    """name -> Change of the merged LoRA, computed when it is asked for; weights: one for each, of any sign.

    sum: sum w_i D_i. average: that over sum |w_i|. normalize: each brought to the mean length first. orthogonalize: of each only what
    those before it lack (Gram-Schmidt). slerp: the mean on the sphere (Karcher; slerp for two), as long as the weighted mean of
    lengths. knots: TIES or DARE among the layers' common directions (Stoica et al. 2024, arXiv 2410.19735). ties, dare, della, magnitude:
    entry by entry over the whole differences, which the result has to be stored as, or cut.
    density: the share that ties, dare, della and magnitude keep, 0 to 1; seed: of dare and della; tick: called for each layer that is
    compared (see ``compares``), may raise to stop.
    Raises StrataError where a LoRA that the method compares is zero, or, when a layer is asked for, where those of its name do not fit.
    """
    if len(loras) != len(weights) or not loras:
        raise StrataError("Merging needs a weight for each LoRA, and at least one of both.")
    if not 0 < density <= 1:
        raise StrataError(f"density is {density:g}: it must be above 0 and at most 1.")
    if method in ("knots ties", "knots dare"):
        return _by_layer(loras, weights, lambda parts: _knots(parts, method.split()[1], density, seed))
    if method in ELEMENTWISE:
        return _by_layer(loras, weights, lambda parts: _elementwise(parts, method, density, seed))
    numbers = list(map(float, weights))
    products = gram(loras, tick) if compares(method) else torch.zeros(len(loras), len(loras), dtype=torch.float64)
    return weighted_sum(loras, coefficients(products, numbers, method))


def compares(method: Method) -> bool:
    """Whether all layers of all LoRAs are looked at before the first is merged."""
    return method in ("normalize", "orthogonalize", "slerp")


def weighted_sum(loras: Sequence[Lora], factors: Sequence[float]) -> Mapping[str, Change]:
    """sum of factor * LoRA, exactly."""
    return _by_layer(loras, factors, total)


def gram(loras: Sequence[Lora], tick: Callable[[], None] = lambda: None) -> Tensor:
    """[N, N] inner products of whole LoRAs, from their factors."""
    found = torch.zeros(len(loras), len(loras), dtype=torch.float64)
    for name in _names(loras):
        at = [i for i, lora in enumerate(loras) if name in lora]
        changes = [loras[i][name] for i in at]
        _check_shapes(name, changes)
        tick()
        if all(change.low is not None for change in changes):
            products = gram_matrix([change.low for change in changes])
        else:
            flat = torch.stack([change.dense().flatten() for change in changes])
            products = flat @ flat.T
        found[torch.tensor(at)[:, None], torch.tensor(at)] += products
    return found


def coefficients(products: Tensor, weights: Sequence[float], method: Method) -> list[float]:
    """c with the merged LoRA = sum c_i D_i, given all inner products."""
    if method == "sum":
        return list(weights)
    if method == "average":
        size = sum(map(abs, weights))
        if size == 0:
            raise StrataError("The strengths are all zero: there is nothing to average.")
        return [w / size for w in weights]
    lengths = products.diagonal().clamp_min(0).sqrt()
    if not bool((lengths > 0).all()):
        empty = int((lengths == 0).nonzero()[0]) + 1
        raise StrataError(f"LoRA {empty} changes nothing, so {method} has no length to go by. Take it out.")
    w = torch.tensor(weights, dtype=torch.float64)
    if method == "normalize":
        return (w * lengths.mean() / lengths).tolist()
    if method == "orthogonalize":
        return _orthogonal(products, w).tolist()
    if method == "slerp":
        return _karcher(products / torch.outer(lengths, lengths), lengths, w).tolist()
    raise StrataError(f"{method} is not a way of merging. There are {', '.join(METHODS)}.")


def _orthogonal(products: Tensor, weights: Tensor) -> Tensor:
    """Gram-Schmidt in the space of coefficients: e_i = D_i - sum_j<i <D_i, e_j> / <e_j, e_j> e_j; then sum w_i e_i."""
    count = len(weights)
    basis = torch.eye(count, dtype=torch.float64)
    for i in range(count):
        for j in range(i):
            square = basis[j] @ products @ basis[j]
            # Else it had nothing of its own.
            if square > 1e-12 * products[j, j]:
                basis[i] = basis[i] - (basis[i] @ products @ basis[j]) / square * basis[j]
    return weights @ basis


def _karcher(cosines: Tensor, lengths: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of directions on the sphere; a negative weight turns its direction round. Points are coefficients of the unit
    vectors u_i, their products are ``cosines``."""
    share = weights.abs() / weights.abs().sum().clamp_min(1e-300)
    signs = torch.where(weights < 0, -1.0, 1.0).double()
    cosines = cosines * torch.outer(signs, signs)
    point = _unit(share, cosines)
    for _ in range(STEPS):
        dots = (cosines @ point).clamp(-1, 1)
        angles = dots.arccos()
        # log map at ``point``: angle * (u_i - dot p) / sin(angle)
        pull = share * torch.where(angles > 1e-9, angles / angles.sin().clamp_min(1e-12), torch.ones_like(angles))
        step = pull - (pull @ dots) * point
        size = (step @ cosines @ step).clamp_min(0).sqrt()
        if size < CLOSE:
            break
        point = _unit(size.cos() * point + size.sin() / size * step, cosines)
    return signs * point / lengths * (share @ (lengths * weights.abs()))


def _unit(point: Tensor, cosines: Tensor) -> Tensor:
    square = point @ cosines @ point
    if square <= 1e-18:
        raise StrataError("These LoRAs are opposites of each other: there is no direction between them for slerp.")
    return point / square.sqrt()


def _knots(parts: Sequence[tuple[Change, float]], inner: str, density: float, seed: int) -> Change:
    """[D_1 ... D_N] = U S [V_1 ... V_N]: the V_i are combined entry by entry and return through U S, rank at most sum of ranks."""
    changes = [change for change, _ in parts]
    if any(change.low is None for change in changes):
        return _elementwise(parts, inner, density, seed)
    stretched, directions = side_by_side([change.low for change in changes])
    merged = combine(directions, [factor for _, factor in parts], inner, density, seed)
    return Change(LowRank(stretched, merged), None, changes[0].shape)


def _elementwise(parts: Sequence[tuple[Change, float]], method: str, density: float, seed: int) -> Change:
    shape = parts[0][0].shape
    dense = _Dense([change for change, _ in parts])
    return Change(None, combine(dense, [factor for _, factor in parts], method, density, seed), shape)


@dataclass(frozen=True, eq=False)
class _Dense:
    """Changes as whole tensors of one shape, one at a time."""

    changes: Sequence[Change]

    def __iter__(self) -> Iterator[Tensor]:
        return (change.dense().reshape(self.changes[0].shape) for change in self.changes)


def _by_layer(loras: Sequence[Lora], factors: Sequence[float], join: Callable) -> OnDemand:
    used = [(lora, factor) for lora, factor in zip(loras, factors, strict=True) if factor != 0]

    def make(name: str) -> Change:
        parts = [(lora[name], factor) for lora, factor in used if name in lora]
        _check_shapes(name, [change for change, _ in parts])
        return join(parts)

    return OnDemand({name: partial(make, name) for name in _names([lora for lora, _ in used])})


def _names(loras: Sequence[Lora]) -> list[str]:
    return list(dict.fromkeys(name for lora in loras for name in lora))


def _check_shapes(name: str, changes: Sequence[Change]) -> None:
    shapes = {(change.shape[0], math.prod(change.shape[1:])) for change in changes}
    if len(shapes) > 1:
        sizes = " and ".join(f"{out}x{columns}" for out, columns in sorted(shapes))
        raise StrataError(f"{name} is {sizes}: these LoRAs were made for different models.")
