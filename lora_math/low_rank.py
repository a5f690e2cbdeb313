"""Matrices kept as a product of two thin factors, and their exact algebra.

Nothing here ever forms the [out, in] product. Everything runs in float64 on the CPU: it costs at most three times float32 there, and
in float32 Gram-based quantities lose all digits below sqrt(eps) of the largest singular value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from .energy import cast, upper_gram
from .errors import LoraShapeError

# For which Gram matrices leave enough digits: the least pivot of a factor, of its largest, and the least singular value, of the product of
# the factors' norms.
SOUND = 1e-6
# The part of the largest singular value below which all is the rounding of float64.
ZERO = 1e-13
# Numbers of factors whose products are looked at together: 16 MB in double precision.
TOGETHER = 1 << 21


@dataclass(frozen=True, eq=False)
class SVD:
    """u [out, k], s [k] descending, vh [k, in] with u @ diag(s) @ vh the matrix; k = min(out, in, rank)."""

    u: Tensor
    s: Tensor
    vh: Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """The matrix up @ down; up [out, rank], down [rank, in], stored as float64 on the CPU. Rank 0 is the zero matrix."""

    up: Tensor
    down: Tensor

    def __post_init__(self):
        if self.up.ndim != 2 or self.down.ndim != 2 or self.up.shape[1] != self.down.shape[0]:
            raise LoraShapeError(f"factors {tuple(self.up.shape)} and {tuple(self.down.shape)} have no common rank")
        object.__setattr__(self, "up", cast(self.up.cpu(), torch.float64))
        object.__setattr__(self, "down", cast(self.down.cpu(), torch.float64))

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    @property
    def rank(self) -> int:
        """Columns of ``up``: an upper bound of the matrix's rank."""
        return self.up.shape[1]

    def dense(self) -> Tensor:
        """up @ down, [out, in]. For tests and small matrices."""
        return self.up @ self.down

    def scaled(self, factor: float) -> LowRank:
        return LowRank(self.up * factor, self.down)

    @staticmethod
    def concat(terms: Iterable[tuple[LowRank, float]]) -> LowRank:
        """sum of factor * matrix, exactly: [c1 up1 | c2 up2 ...] @ [down1; down2; ...]. Raises LoraShapeError when shapes differ."""
        pairs = list(terms)
        if not pairs:
            raise LoraShapeError("nothing to add up")
        if len({matrix.shape for matrix, _ in pairs}) > 1:
            shapes = ", ".join(sorted({f"{m.shape[0]}x{m.shape[1]}" for m, _ in pairs}))
            raise LoraShapeError(f"matrices of different shapes cannot be added: {shapes}")
        up = torch.cat([matrix.up * factor for matrix, factor in pairs], 1)
        return LowRank(up, torch.cat([matrix.down for matrix, _ in pairs], 0))

    def svd(self) -> SVD:
        """Exact SVD through QR of both factors (low-rank rounding, Oseledets 2011), O((out + in) rank^2 + rank^3)."""
        q_up, r_up = torch.linalg.qr(self.up)
        q_down, r_down = torch.linalg.qr(self.down.T)
        u, s, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
        return SVD(q_up @ u, s, vh @ q_down.T)

    def singular_values(self) -> Tensor:
        """[min(out, in, rank)], descending; half the cost of ``svd``."""
        return torch.linalg.svdvals(self._core())

    def truncate(self, rank: int) -> tuple[LowRank, float]:
        """The nearest matrix of that rank and its relative error, exact: sqrt(1 - retained energy) (Eckart and Young 1936).

        The factors come balanced. A rank at or above the matrix's own returns the same matrix with error 0. Raises LoraShapeError for a
        negative one. For whoever uses this package as a library (docs/lora_math.md); ``algebra.shrink`` shares ranks between layers.
        """
        if rank < 0:
            raise LoraShapeError(f"rank {rank} is negative")
        svd = self.svd()
        total = torch.linalg.vector_norm(svd.s)
        lost = torch.linalg.vector_norm(svd.s[rank:])
        root = svd.s[:rank].sqrt()
        short = LowRank(svd.u[:, :rank] * root, root[:, None] * svd.vh[:rank])
        return short, float(lost / total) if total > 0 else 0.0

    def frobenius_norm(self) -> float:
        """sqrt of the sum of squares of all entries. Through QR, so that small norms of large factors are right too."""
        return float(torch.linalg.vector_norm(self._core()))

    def inner(self, other: LowRank) -> float:
        """tr(self^T other) = sum((up1^T up2) * (down1 down2^T)), O((out + in) rank1 rank2)."""
        _same_shape(self, other)
        return float(((self.up.T @ other.up) * (self.down @ other.down.T)).sum())

    def _core(self) -> Tensor:
        """A small matrix with the same singular values."""
        r_up = torch.linalg.qr(self.up, mode="r").R
        r_down = torch.linalg.qr(self.down.T, mode="r").R
        return r_up @ r_down.T


def gram_matrix(matrices: Sequence[LowRank]) -> Tensor:
    """[N, N] of all inner products in one pass, O((out + in) R^2) with R the sum of the ranks. Raises LoraShapeError when shapes differ."""
    if not matrices:
        return torch.zeros(0, 0, dtype=torch.float64)
    stacked = LowRank.concat((matrix, 1.0) for matrix in matrices)
    products = (stacked.up.T @ stacked.up) * (stacked.down @ stacked.down.T)
    owner = torch.repeat_interleave(torch.arange(len(matrices)), torch.tensor([matrix.rank for matrix in matrices]))
    rows = torch.zeros(len(matrices), products.shape[1], dtype=torch.float64).index_add_(0, owner, products)
    return torch.zeros(len(matrices), len(matrices), dtype=torch.float64).index_add_(1, owner, rows)


def singular_values_of(up: Tensor, down: Tensor) -> Tensor:
    """[min(out, in, rank)] of up [out, rank] @ down [rank, in], any float type, descending, float64.

    Through the Gram matrices of both factors, several times as fast as ``LowRank.singular_values``: what lies below 1e-7 of the largest
    is rounding. With down down^T = L L^T they are the roots of the eigenvalues of L^T (up^T up) L.
    """
    return _roots(_squared(up, down))[: min(up.shape[0], up.shape[1], down.shape[1])]


def singular_values_of_all(products: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """``singular_values_of`` each (up, down). Small ones of equal shapes go together: one by one it is their calls that cost."""
    found: list[Tensor | None] = [None] * len(products)
    alike: dict[tuple, list[int]] = {}
    large: list[int] = []
    for at, (up, down) in enumerate(products):
        small = 0 < up.numel() + down.numel() <= TOGETHER // 4 and up.shape[1] <= min(up.shape[0], down.shape[1])
        if small:
            alike.setdefault((up.shape, down.shape, up.dtype, down.dtype), []).append(at)
        else:
            large.append(at)
    # The eigenvalues of one matrix keep one thread busy, the products that lead to it all of them.
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        for some in _in_bounds(large, [products[at][0].shape[1] ** 2 for at in large]):
            roots = pool.map(_roots, [_squared(*products[at]) for at in some])
            for at, values in zip(some, roots, strict=True):
                up, down = products[at]
                found[at] = values[: min(up.shape[0], up.shape[1], down.shape[1])]
    for places in alike.values():
        count = TOGETHER // sum(factor.numel() for factor in products[places[0]])
        for start in range(0, len(places), count):
            some = places[start : start + count]
            values = _values_together([products[at] for at in some])
            for place, at in enumerate(some):
                found[at] = singular_values_of(*products[at]) if values is None else values[place]
    return found


def _in_bounds(places: Sequence[int], numbers: Sequence[int]) -> Iterator[list[int]]:
    """``places`` in order, in groups of which each holds at most TOGETHER ``numbers``, or a single place."""
    some, held = [], 0
    for place, count in zip(places, numbers, strict=True):
        if some and held + count > TOGETHER:
            yield some
            some, held = [], 0
        some.append(place)
        held += count
    if some:
        yield some


def _squared(up: Tensor, down: Tensor) -> Tensor:
    """[rank, rank], symmetric, with the squares of the singular values of up [out, rank] @ down [rank, in] as eigenvalues."""
    core = square_root(mirrored(upper_gram(down, torch.float64)))
    return core.T @ mirrored(upper_gram(up.T, torch.float64)) @ core


def _roots(squared: Tensor) -> Tensor:
    """The roots of its eigenvalues, descending."""
    return torch.linalg.eigvalsh(squared).clamp_min(0).sqrt().flip(-1)


def _values_together(products: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """[n, rank]; None where one of them wants to be looked at alone."""
    inner, outer = (
        torch.bmm(rows, rows.mT)
        for rows in (
            cast(torch.stack([down for _, down in products]), torch.float64),
            cast(torch.stack([up.T for up, _ in products]), torch.float64),
        )
    )
    roots, failed = torch.linalg.cholesky_ex(inner)
    squares = roots.mT @ outer @ roots
    if failed.any() or not squares.isfinite().all():
        return None
    return _roots(squares)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A matrix as singular values s [k], descending, whose vectors are computed when they are asked for."""

    s: Tensor
    _cut: Callable[[slice], SVD]

    def cut(self, start: int, stop: int) -> SVD:
        """The singular values from ``start`` to ``stop`` with their vectors."""
        return self._cut(slice(start, stop))


def quick_spectrum(matrix: LowRank) -> Spectrum:
    """That of ``LowRank.svd``, several times as fast where both factors are far from singular, and then u is orthonormal to
    1e-16 (|up| |down| / s[i])^2 only: for whoever uses its products.

    With down down^T = L L^T and L^T (up^T up) L = V diag(s^2) V^T the matrix is (up L V) (V^T L^-1 down), whatever the rounding of V:
    what is kept and what is cut off add up to it, and the rows of vh are orthonormal to 1e-10.
    """
    found = _through_grams(matrix)
    if found is None:
        svd = matrix.svd()
        return Spectrum(svd.s, lambda part: SVD(svd.u[:, part], svd.s[part], svd.vh[part]))
    root, s, v = found

    def cut(part: slice) -> SVD:
        some = v[:, part]
        # L^-T V: its transpose is V^T L^-1.
        right = torch.linalg.solve_triangular(root.T, some, upper=True)
        return SVD(matrix.up @ (root @ some / s[part]), s[part], right.T @ matrix.down)

    return Spectrum(s, cut)


def side_by_side(matrices: Sequence[LowRank]) -> tuple[Tensor, list[Tensor]]:
    """(U S [out, k], [V_1, V_2 ...], each [k, in]) of [D_1 D_2 ...] = U S [V_1 V_2 ...], where nothing is zero in S; matrices [out, in].

    The columns' factor is block-diagonal, so that neither it nor the directions of all together are ever formed whole.
    """
    stacked = torch.cat([matrix.up for matrix in matrices], 1)
    inner = torch.block_diag(*(mirrored(upper_gram(matrix.down, torch.float64)) for matrix in matrices))
    within = stacked.shape[1] <= len(stacked)
    found = _of_grams(mirrored(upper_gram(stacked.T, torch.float64)), inner) if within and len(inner) else None
    downs = [matrix.down for matrix in matrices]
    ranks = [matrix.rank for matrix in matrices]
    if found is not None:
        root, _, v = found
        right = torch.linalg.solve_triangular(root.T, v, upper=True).T
        return stacked @ (root @ v), [part @ down for part, down in zip(right.split(ranks, 1), downs, strict=True)]
    q, r = torch.linalg.qr(stacked)
    core = torch.cat([part @ down for part, down in zip(r.split(ranks, 1), downs, strict=True)], 1)
    spectrum = quick_spectrum(LowRank(torch.eye(len(core), dtype=torch.float64), core))
    # Directions in which nothing is changed are anything.
    svd = spectrum.cut(0, int((spectrum.s > ZERO * spectrum.s[:1]).sum()))
    return q @ (svd.u * svd.s), list(svd.vh.split(matrices[0].shape[1], 1))


def quick_singular_values(matrix: LowRank) -> Tensor:
    """Those of ``quick_spectrum``."""
    found = _through_grams(matrix)
    return matrix.singular_values() if found is None else found[1]


def _through_grams(matrix: LowRank) -> tuple[Tensor, Tensor, Tensor] | None:
    """(L, s, V) of ``quick_spectrum``; None where rounding would be seen in what they give."""
    if not 0 < matrix.rank <= min(matrix.shape):
        return None
    inner = mirrored(upper_gram(matrix.down, torch.float64))
    return _of_grams(mirrored(upper_gram(matrix.up.T, torch.float64)), inner)


def _of_grams(outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """(L, s, V) of L^T (up^T up) L = V diag(s^2) V^T with down down^T = L L^T; outer: up^T up, inner: down down^T [rank, rank]."""
    root, failed = torch.linalg.cholesky_ex(inner)
    pivots = root.diagonal()
    if failed or not pivots.min() > SOUND * pivots.max():
        return None
    squares = root.T @ outer @ root
    if not squares.isfinite().all():
        return None
    values, vectors = torch.linalg.eigh(squares)
    s = values.flip(0).clamp_min(0).sqrt()
    # Rounding goes with the factors: a product of large ones may be small.
    scale = outer.trace().sqrt() * torch.linalg.vector_norm(root)
    return (root, s, vectors.flip(1)) if s[-1] > SOUND * scale else None


def square_root(gram: Tensor) -> Tensor:
    """L with L L^T = ``gram``, which is positive semidefinite: Cholesky's, or where a direction is missing that of its eigenvectors."""
    root, failed = torch.linalg.cholesky_ex(gram)
    if not failed:
        return root
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp_min(0).sqrt()


def mirrored(upper: Tensor) -> Tensor:
    """The symmetric matrix of which only what lies on and right of the diagonal is right."""
    return upper.triu() + upper.triu(1).T


def _same_shape(a: LowRank, b: LowRank) -> None:
    if a.shape != b.shape:
        raise LoraShapeError(f"a {a.shape[0]}x{a.shape[1]} and a {b.shape[0]}x{b.shape[1]} matrix cannot be compared")
