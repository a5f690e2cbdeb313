"""Changes by layer cut to a budget and rounded to the type they are stored in, with the error of both told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..choices import TYPES
from ..energy import cast, upper_gram
from ..errors import StrataError
from ..low_rank import SOUND, SVD, ZERO, LowRank, Spectrum, mirrored, quick_singular_values, quick_spectrum
from .budget import Budget, choose
from .change import Change
from .sketch import leading_svd

# Ranks of a dense change that are looked at where no budget says how many.
SKETCHED = 256
# The part of |up| |down| that a few roundings of float64 make.
NOISE = 4e-15
# Factors as they are may have so many times the energy of their product, or what rounding them adds would be seen.
WASTE = 1.1


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
            asked = sketches.pop(name, None)
            if asked is None:
                change = changes[name]
                factors = _as_they_are(change, budget, clip)
                if factors is not None:
                    found[name] = _stored(factors, dtype, change.shape)
                    tick()
                    continue
                asked = _asked(change, budget, clip)
            if asked is None:
                found[name] = _whole(change, dtype)
            else:
                count = len(asked.s)
                if budget.kind == "rank":
                    count = min(count, int(budget.amount))
                elif ranks is not None:
                    count = min(count, ranks[name])
                found[name] = _cut(asked, count, dtype)
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
class _Factors:
    """up @ down in float64, with the Gram matrices up^T up and down down^T [rank, rank]."""

    up: Tensor
    down: Tensor
    outer: Tensor
    inner: Tensor


def _as_they_are(change: Change, budget: Budget, clip: float) -> _Factors | None:
    """The factors of a change that keeps all its ranks, each column and its row made equally long. None where fewer ranks would hold the
    same, or where the factors cancel so far that those of an SVD lose less to rounding."""
    low = change.low
    kept = budget.kind == "exact" or (budget.kind == "rank" and low is not None and low.rank <= budget.amount)
    if low is None or clip > 0 or not kept or not 0 < low.rank <= min(low.shape):
        return None
    grams = [mirrored(upper_gram(rows, torch.float64)) for rows in (low.up.T, low.down)]
    lengths = [gram.diagonal().sqrt() for gram in grams]
    if not all(bool((of > 0).all() and of.isfinite().all()) for of in lengths):
        return None
    for gram, of in zip(grams, lengths, strict=True):
        root, failed = torch.linalg.cholesky_ex(gram / of / of[:, None])
        if failed or not root.diagonal().min() > SOUND:
            return None
    if not (lengths[0] * lengths[1]).square().sum() <= WASTE * (grams[0] * grams[1]).sum():
        return None
    factor = (lengths[1] / lengths[0]).sqrt()
    balanced = [gram * by * by[:, None] for gram, by in zip(grams, (factor, 1 / factor), strict=True)]
    return _Factors(low.up * factor, low.down / factor[:, None], *balanced)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a layer is asked to become. spectrum: without the limit that ``limit`` puts on it, 0 for none; s [k]: its singular values
    less the zeros, and limited; low: the same as a product, None where only the spectrum has it; beyond: norm of what the spectrum itself
    left out; shape: the weight's."""

    spectrum: Spectrum
    s: Tensor
    low: LowRank | None
    beyond: float
    shape: tuple[int, ...]

    def part(self, start: int, stop: int) -> SVD:
        found = self.spectrum.cut(start, stop)
        return SVD(found.u, self.s[start:stop], found.vh)


def _asked(change: Change, budget: Budget, clip: float) -> _Asked | None:
    """None for what stays whole."""
    low, beyond = change.low, 0.0
    if low is not None:
        spectrum = quick_spectrum(low)
        s = spectrum.s[: _count(spectrum.s, _noise(low))]
    elif not change.is_matrix or (budget.kind == "exact" and not clip):
        return None
    else:
        matrix = change.whole.reshape(change.shape[0], -1)
        wanted = int(budget.amount) if budget.kind == "rank" else SKETCHED
        spectrum = _of(leading_svd(matrix, min(wanted, *matrix.shape)))
        s = spectrum.s[: _count(spectrum.s)]
        squared = float(torch.linalg.vector_norm(matrix)) ** 2
        beyond = math.sqrt(max(squared - float(s.square().sum()), 0.0))
    if clip > 0:
        s, low = s.clamp(max=clip), None
    return _Asked(spectrum, s, low, beyond, change.shape)


def _of(svd: SVD) -> Spectrum:
    return Spectrum(svd.s, lambda part: SVD(svd.u[:, part], svd.s[part], svd.vh[part]))


def _ranks(
    changes: Mapping[str, Change],
    budget: Budget,
    dtype: torch.dtype,
    clip: float,
    overhead: Callable[[str], int],
    tick: Callable[[], None],
    stubs: bool,
    beyond: float,
) -> tuple[dict[str, int], dict[str, _Asked]]:
    """(how many singular values each layer keeps, what is too dear to be computed again for those that were whole)."""
    values: dict[str, Tensor] = {}
    sketches: dict[str, _Asked] = {}
    costs, fixed = [], 0
    for name in changes:
        change = changes[name]
        fixed += overhead(name)
        if change.low is not None:
            s = quick_singular_values(change.low)
            values[name] = s[: _count(s, _noise(change.low))]
            costs.append(sum(change.low.shape) * dtype.itemsize)
        else:
            asked = _asked(change, budget, clip)
            if asked is None:
                fixed += change.whole.numel() * dtype.itemsize
            else:
                sketches[name] = _kept_as(asked, torch.promote_types(dtype, torch.float32))
                beyond = math.hypot(beyond, asked.beyond)
                values[name] = asked.s
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


def _kept_as(asked: _Asked, dtype: torch.dtype) -> _Asked:
    """With its vectors in ``dtype``, and nothing else of the change in memory."""
    svd = asked.spectrum.cut(0, len(asked.s))
    return replace(asked, spectrum=_of(SVD(svd.u.to(dtype), svd.s, svd.vh.to(dtype))))


def _cut(asked: _Asked, rank: int, dtype: torch.dtype) -> Stored:
    """The first ``rank`` singular values, stored."""
    svd = asked.part(0, rank)
    root, gram = svd.s.sqrt(), torch.diag(svd.s)
    kept = _stored(_Factors(svd.u * root, root[:, None] * svd.vh, gram, gram), dtype, asked.shape)
    lost = float(torch.linalg.vector_norm(asked.s[rank:]))
    norm = math.hypot(float(torch.linalg.vector_norm(asked.s)), asked.beyond)
    inner, left = kept.inner, len(asked.s) - rank
    # What is cut off meets but the rounding of what is kept.
    if rank and left:
        stored = LowRank(kept.up, kept.down)
        if asked.low is not None and rank < left:
            inner = stored.inner(asked.low)
        else:
            rest = asked.part(rank, len(asked.s))
            inner += stored.inner(LowRank(rest.u * rest.s, rest.vh))
    return replace(kept, norm=norm, error=math.hypot(kept.error, lost, asked.beyond), inner=inner)


def _stored(factors: _Factors, dtype: torch.dtype, shape: tuple[int, ...]) -> Stored:
    """Raises OverflowError where the type cannot hold them.

    With d for what rounding adds to a factor, the error is d_up (down + d_down) + up d_down, and what is stored times what was asked for
    (up + d_up)^T up times (down + d_down) down^T: of these only the products with d are new. No two of their numbers cancel, so that
    single precision does.
    """
    up, down = factors.up.to(dtype), factors.down.to(dtype)
    if not all(bool(t.isfinite().all()) for t in (up, down)):
        raise OverflowError
    outer, inner = factors.outer, factors.inner
    squared = max(float((outer * inner).sum()), 0.0)
    if not squared:
        return Stored(up, down, None, shape, 0.0, 0.0, 0.0)
    scale = float(max(outer.diagonal().max(), inner.diagonal().max())) ** 0.5
    outer, inner = outer / scale**2, inner / scale**2
    of_up = _with_rounding(factors.up.T, up.T, scale)
    of_down = _with_rounding(factors.down, down, scale)
    (up_up, up_with), (down_down, down_with) = of_up, of_down
    error = (up_up * (inner + down_with + down_with.T + down_down)).sum()
    error += 2 * (up_with * (down_with.T + down_down)).sum() + (outer * down_down).sum()
    together = ((outer + up_with) * (inner + down_with)).sum()
    return Stored(
        up, down, None, shape, squared**0.5, max(float(error), 0.0) ** 0.5 * scale**2, float(together) * scale**4
    )


def _with_rounding(rows: Tensor, stored: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(d d^T, d rows^T) [rank, rank] of d = stored - rows, all over ``scale``^2, in double precision from single."""
    lost = (cast(stored, torch.float64) - rows).div_(scale).float()
    with_rows = lost @ (rows / scale).float().T
    return mirrored(upper_gram(lost)).double(), with_rows.double()


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
