"""Changes by layer cut to a budget and rounded to the type they are stored in, with the error of both told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StrataError
from ..low_rank import SVD, LowRank
from .budget import Budget, choose
from .change import Change
from .sketch import leading_svd

SKETCHED = 256  # ranks of a dense change that are looked at when it is to become low-rank
ZERO = 1e-13  # of the largest singular value: what lies below is the rounding of float64
NOISE = 4e-15  # of |up| |down|: a few roundings of float64
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, eq=False)
class Stored:
    """One layer as a file holds it. up, down: matrices in the file's type (rank 0: nothing is left), or ``whole``, shaped as the weight.

    norm, error: of the change that was asked for and of what is stored less it, both Frobenius norms; inner: <stored, asked for>.
    """

    up: Tensor | None
    down: Tensor | None
    whole: Tensor | None
    shape: tuple[int, ...]
    norm: float
    error: float
    inner: float

    @property
    def rank(self) -> int | None:
        return None if self.up is None else self.up.shape[1]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.up, self.down, self.whole) if t is not None)


def shrink(
    changes: Mapping[str, Change],
    budget: Budget,
    dtype: torch.dtype,
    clip: float = 0.0,
    overhead: Callable[[str], int] = lambda name: 0,
    tick: Callable[[], None] = lambda: None,
    stubs: bool = False,
) -> dict[str, Stored]:
    """Every layer as the file will hold it.

    clip: singular values above it are cut to it, 0 for none; overhead: bytes that a file takes for a layer besides its numbers; tick:
    called after each layer, may raise to stop; stubs: whether layers of which nothing is left are written all the same. A dense matrix
    becomes low-rank only where a budget or ``clip`` asks for it, and 256 ranks are looked at; vectors stay whole. Raises StrataError
    naming a layer whose numbers the type cannot hold.
    """
    spectra: dict[str, tuple[SVD, float]] = {}
    for name, change in changes.items():
        low = change.low
        if low is not None:
            svd = low.svd()
            # Factors that cancel leave the rounding of their own size.
            noise = NOISE * float(torch.linalg.vector_norm(low.up) * torch.linalg.vector_norm(low.down))
            spectra[name] = _nonzero(svd, noise), 0.0
        elif change.is_matrix and (budget.kind != "exact" or clip):
            matrix = change.whole.reshape(change.shape[0], -1)
            wanted = int(budget.amount) if budget.kind == "rank" else SKETCHED
            svd = leading_svd(matrix, min(wanted, SKETCHED, *matrix.shape))
            rest = max(float(matrix.square().sum() - svd.s.square().sum()), 0.0)
            spectra[name] = _nonzero(svd), math.sqrt(rest)
        tick()
    asked = {name: _clipped(svd, clip) for name, (svd, _) in spectra.items()}
    size = dtype.itemsize
    fixed = sum(
        overhead(name) + (0 if name in spectra else change.whole.numel() * size) for name, change in changes.items()
    )
    costs = [(len(svd.u) + svd.vh.shape[1]) * size for svd, _ in spectra.values()]
    values = [asked[name].s for name in spectra]
    kept = choose(budget, values, costs, fixed)
    if budget.kind == "size" and not all(kept) and not stubs:
        # Layers of which nothing is left are not written, and need no names: their room goes to the others.
        free = sum(overhead(name) for name, rank in zip(spectra, kept, strict=True) if not rank)
        left = [s[: len(s) if rank else 0] for s, rank in zip(values, kept, strict=True)]
        kept = choose(budget, left, costs, fixed - free)
    found = {}
    ranks = dict(zip(spectra, kept, strict=True))
    for name, change in changes.items():
        try:
            if name in spectra:
                found[name] = _stored(asked[name], ranks[name], spectra[name][1], change, dtype)
            else:
                found[name] = _whole(change, dtype)
        except OverflowError:
            raise StrataError(
                f"{name} has numbers that {_name(dtype)} cannot hold. Save it as bf16 or fp32, or lower the strength."
            ) from None
        tick()
    return found


def _nonzero(svd: SVD, noise: float = 0.0) -> SVD:
    count = int((svd.s > max(ZERO * float(svd.s[0]), noise)).sum()) if svd.s.numel() else 0
    return SVD(svd.u[:, :count], svd.s[:count], svd.vh[:count])


def _clipped(svd: SVD, limit: float) -> SVD:
    return SVD(svd.u, svd.s.clamp(max=limit), svd.vh) if limit > 0 else svd


def _stored(svd: SVD, rank: int, beyond: float, change: Change, dtype: torch.dtype) -> Stored:
    """beyond: norm of what the SVD itself left out."""
    root = svd.s[:rank].sqrt()
    up, down = svd.u[:, :rank] * root, root[:, None] * svd.vh[:rank]
    small_up, small_down = up.to(dtype), down.to(dtype)
    if not all(bool(t.isfinite().all()) for t in (small_up, small_down)):
        raise OverflowError
    # What rounding does, as a product: up' down' - up down = (up' - up) down' + up (down' - down).
    rounding = LowRank(
        torch.cat([small_up.double() - up, up], 1), torch.cat([small_down.double(), small_down.double() - down])
    )
    lost = float(torch.linalg.vector_norm(svd.s[rank:]))
    norm = math.hypot(float(torch.linalg.vector_norm(svd.s)), beyond)
    error = math.hypot(lost, beyond, rounding.frobenius_norm() if rank else 0.0)
    inner = LowRank(small_up, small_down).inner(LowRank(svd.u * svd.s, svd.vh)) if rank else 0.0
    return Stored(small_up, small_down, None, change.shape, norm, error, inner)


def _whole(change: Change, dtype: torch.dtype) -> Stored:
    whole = change.dense()
    small = whole.to(dtype)
    if not bool(small.isfinite().all()):
        raise OverflowError
    error = float(torch.linalg.vector_norm(small.double() - whole))
    return Stored(
        None,
        None,
        small,
        change.shape,
        float(torch.linalg.vector_norm(whole)),
        error,
        float((small.double() * whole).sum()),
    )


def _name(dtype: torch.dtype) -> str:
    return next((name for name, known in TYPES.items() if known == dtype), str(dtype))


@dataclass(frozen=True)
class Quality:
    """Of several layers together. error: ||stored - asked for|| / ||asked for||; gain: <stored, asked for> / ||asked for||^2, 1 where
    the strength is right."""

    error: float
    gain: float


def quality(layers: Mapping[str, Stored] | list[Stored]) -> Quality:
    layers = list(layers.values()) if isinstance(layers, Mapping) else layers
    norm = math.fsum(layer.norm**2 for layer in layers)
    if norm == 0:
        return Quality(0.0, 1.0)
    error = math.sqrt(math.fsum(layer.error**2 for layer in layers) / norm)
    return Quality(error, math.fsum(layer.inner for layer in layers) / norm)
