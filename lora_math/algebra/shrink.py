"""Changes by layer cut to a budget and rounded to the type they are stored in, with the error of both told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..choices import TYPES
from ..energy import product_norm
from ..errors import StrataError
from ..low_rank import SVD, LowRank, quick_singular_values, quick_svd
from .budget import Budget, choose
from .change import Change
from .sketch import leading_svd

# Ranks of a dense change that are looked at where no budget says how many.
SKETCHED = 256
# The part of the largest singular value below which all is the rounding of float64.
ZERO = 1e-13
# The part of |up| |down| that a few roundings of float64 make.
NOISE = 4e-15


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
    beyond: float = 0.0,
) -> dict[str, Stored]:
    """Every layer as the file will hold it.

    changes: each is asked for once, or, where a budget chooses over all layers, twice, and not kept (see ``OnDemand``); clip: singular
    values above it are cut to it, 0 for none; overhead: bytes that a file takes for a layer besides its numbers; tick: called ``passes``
    times for each layer, may raise to stop; stubs: whether layers of which nothing is left are written all the same. A dense matrix
    becomes low-rank only where a budget or ``clip`` asks for it, and 256 ranks are looked at unless the budget is a rank; vectors stay
    whole. beyond: norm of what the changes lack already, which counts as lost.
    Raises StrataError naming a layer whose numbers the type cannot hold.
    """
    ranks, sketches = None, {}
    if passes(budget) > 1:
        ranks, sketches = _ranks(changes, budget, dtype, clip, overhead, tick, stubs, beyond)
    found = {}
    for name in changes:
        change = None
        try:
            spectrum = sketches.pop(name, None)
            if spectrum is None:
                change = changes[name]
                spectrum = _spectrum(change, budget, clip)
            if spectrum is None:
                found[name] = _whole(change, dtype)
            else:
                asked = spectrum.clipped(clip)
                count = len(asked.s)
                if budget.kind == "rank":
                    count = min(count, int(budget.amount))
                elif ranks is not None:
                    count = min(count, ranks[name])
                found[name] = _stored(asked, count, spectrum, dtype)
        except OverflowError:
            raise StrataError(
                f"{name} has numbers that {_name(dtype)} cannot hold. Save it as bf16 or fp32, or lower the strength."
            ) from None
        tick()
    return found


def passes(budget: Budget) -> int:
    """How many times ``shrink`` goes through all layers: what chooses over all of them looks at all before it stores the first."""
    return 1 if budget.kind in ("exact", "rank") else 2


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """svd: of a change, without its zeros; beyond: norm of what the SVD itself left out; shape: the weight's."""

    svd: SVD
    beyond: float
    shape: tuple[int, ...]

    def clipped(self, limit: float) -> SVD:
        return SVD(self.svd.u, self.svd.s.clamp(max=limit), self.svd.vh) if limit > 0 else self.svd

    def to(self, dtype: torch.dtype) -> _Spectrum:
        return _Spectrum(SVD(self.svd.u.to(dtype), self.svd.s, self.svd.vh.to(dtype)), self.beyond, self.shape)


def _spectrum(change: Change, budget: Budget, clip: float) -> _Spectrum | None:
    """None for what stays whole."""
    low = change.low
    if low is not None:
        return _Spectrum(_nonzero(quick_svd(low), _noise(low)), 0.0, change.shape)
    if not change.is_matrix or (budget.kind == "exact" and not clip):
        return None
    matrix = change.whole.reshape(change.shape[0], -1)
    wanted = int(budget.amount) if budget.kind == "rank" else SKETCHED
    svd = leading_svd(matrix, min(wanted, *matrix.shape))
    squared = float(torch.linalg.vector_norm(matrix)) ** 2
    return _Spectrum(_nonzero(svd), math.sqrt(max(squared - float(svd.s.square().sum()), 0.0)), change.shape)


def _ranks(
    changes: Mapping[str, Change],
    budget: Budget,
    dtype: torch.dtype,
    clip: float,
    overhead: Callable[[str], int],
    tick: Callable[[], None],
    stubs: bool,
    beyond: float,
) -> tuple[dict[str, int], dict[str, _Spectrum]]:
    """(how many singular values each layer keeps, what is too dear to be computed again for those that were whole)."""
    values: dict[str, Tensor] = {}
    sketches: dict[str, _Spectrum] = {}
    costs, fixed = [], 0
    for name in changes:
        change = changes[name]
        fixed += overhead(name)
        if change.low is not None:
            s = quick_singular_values(change.low)
            values[name] = s[: _count(s, _noise(change.low))]
            costs.append(sum(change.low.shape) * dtype.itemsize)
        else:
            spectrum = _spectrum(change, budget, clip)
            if spectrum is None:
                fixed += change.whole.numel() * dtype.itemsize
            else:
                sketches[name] = spectrum.to(torch.promote_types(dtype, torch.float32))
                beyond = math.hypot(beyond, spectrum.beyond)
                values[name] = spectrum.svd.s
                costs.append((change.shape[0] + math.prod(change.shape[1:])) * dtype.itemsize)
        if clip > 0 and name in values:
            values[name] = values[name].clamp(max=clip)
        tick()
    kept = choose(budget, list(values.values()), costs, fixed, beyond)
    if budget.kind == "size" and not all(kept) and not stubs:
        # Layers of which nothing is left are not written, and need no names: their room goes to the others.
        free = sum(overhead(name) for name, rank in zip(values, kept, strict=True) if not rank)
        left = [s[: len(s) if rank else 0] for s, rank in zip(values.values(), kept, strict=True)]
        kept = choose(budget, left, costs, fixed - free)
    return dict(zip(values, kept, strict=True)), sketches


def _noise(low: LowRank) -> float:
    """Factors that cancel leave the rounding of their own size."""
    return NOISE * float(torch.linalg.vector_norm(low.up) * torch.linalg.vector_norm(low.down))


def _count(s: Tensor, noise: float = 0.0) -> int:
    return int((s > max(ZERO * float(s[0]), noise)).sum()) if s.numel() else 0


def _nonzero(svd: SVD, noise: float = 0.0) -> SVD:
    count = _count(svd.s, noise)
    return SVD(svd.u[:, :count], svd.s[:count], svd.vh[:count])


def _stored(svd: SVD, rank: int, spectrum: _Spectrum, dtype: torch.dtype) -> Stored:
    """svd: what was asked for, as far as ``spectrum`` knows it."""
    beyond, shape = spectrum.beyond, spectrum.shape
    root = svd.s[:rank].sqrt()
    up, down = svd.u[:, :rank] * root, root[:, None] * svd.vh[:rank]
    small_up, small_down = up.to(dtype), down.to(dtype)
    if not all(bool(t.isfinite().all()) for t in (small_up, small_down)):
        raise OverflowError
    lost = float(torch.linalg.vector_norm(svd.s[rank:]))
    norm = math.hypot(float(torch.linalg.vector_norm(svd.s)), beyond)
    error = math.hypot(lost, beyond, _rounding(up, down, small_up, small_down) if rank else 0.0)
    inner = LowRank(small_up, small_down).inner(LowRank(svd.u * svd.s, svd.vh)) if rank else 0.0
    return Stored(small_up, small_down, None, shape, norm, error, inner)


def _rounding(up: Tensor, down: Tensor, small_up: Tensor, small_down: Tensor) -> float:
    """||up' down' - up down||, as (up' - up) down' + up (down' - down): no two of these numbers cancel, so that single precision does."""
    scale = float(up.abs().max())
    rounded_up, rounded_down = small_up.double(), small_down.double()
    left = torch.cat([(rounded_up - up).div_(scale).float(), (up / scale).float()], 1)
    right = torch.cat([(rounded_down / scale).float(), (rounded_down - down).div_(scale).float()])
    return product_norm(left, right) ** 0.5 * scale**2


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
