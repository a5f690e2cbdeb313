"""The exact factor algebra against dense float64 arithmetic, and the laws it must obey for any factors."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from strata.lora_math.errors import LoraShapeError
from strata.lora_math.low_rank import (
    LowRank,
    gram_matrix,
    quick_singular_values,
    quick_spectrum,
    side_by_side,
    singular_values_of,
    singular_values_of_all,
)

sizes = st.integers(1, 12)
seeds = st.integers(0, 2**31)


def matrix(out: int, into: int, rank: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return LowRank(make(out, rank), make(rank, into))


def quick_svd(matrix: LowRank):
    found = quick_spectrum(matrix)
    return found.cut(0, len(found.s))


@given(sizes, sizes, st.integers(0, 15), seeds)
@settings(max_examples=60)
def test_svd_is_the_dense_one(out, into, rank, seed):
    low = matrix(out, into, rank, seed)
    found = low.svd()
    assert torch.allclose(found.u @ torch.diag(found.s) @ found.vh, low.dense(), atol=1e-10)
    dense = torch.linalg.svdvals(low.dense())
    assert torch.allclose(found.s, dense[: found.s.numel()], atol=1e-10)
    assert torch.allclose(low.singular_values(), found.s, atol=1e-10)
    assert (dense[found.s.numel() :] < 1e-10).all()


# Tens of the size of columns of one factor, of how far it is from singular, and of a whole factor.
decades = st.floats(-9, 1)


@given(st.integers(4, 24), st.integers(4, 24), st.integers(1, 12), decades, decades, st.integers(-12, 6), seeds)
@settings(max_examples=200)
def test_the_quick_svd_is_the_dense_one_however_singular_the_factors_are(out, into, rank, spread, twin, size, seed):
    """Also of factors that no Gram matrix has the digits for: there the slow way is taken."""
    low = matrix(out, into, rank, seed)
    low.up.mul_(torch.logspace(0, spread, rank, dtype=torch.float64) * 10.0**size)
    # The last two rows of one factor differ by this much only.
    low.down[-1] = low.down[0] + 10.0**twin * low.down[-1]
    whole = low.dense()
    scale = float(torch.linalg.matrix_norm(low.up) * torch.linalg.matrix_norm(low.down))
    dense, found = torch.linalg.svdvals(whole), quick_svd(low)
    assert torch.allclose(found.s, dense[: len(found.s)], rtol=1e-3, atol=1e-10 * scale)
    assert torch.allclose(quick_singular_values(low), found.s, rtol=1e-9, atol=1e-12 * scale)
    for kept in range(len(found.s) + 1):
        short = found.u[:, :kept] @ torch.diag(found.s[:kept]) @ found.vh[:kept]
        best = float(torch.linalg.vector_norm(dense[kept:]))
        assert math.isclose(float(torch.linalg.matrix_norm(whole - short)), best, rel_tol=1e-6, abs_tol=1e-10 * scale)


@given(st.integers(4, 24), st.integers(4, 24), st.integers(1, 12), decades, seeds)
@settings(max_examples=60)
def test_a_part_of_a_spectrum_is_that_of_the_whole(out, into, rank, twin, seed):
    low = matrix(out, into, rank, seed)
    low.down[-1] = low.down[0] + 10.0**twin * low.down[-1]
    spectrum = quick_spectrum(low)
    count = len(spectrum.s)
    for start, stop in ((0, 0), (0, count // 2), (count // 2, count), (0, count)):
        part, whole = spectrum.cut(start, stop), spectrum.cut(0, count)
        for found, expected in ((part.u, whole.u[:, start:stop]), (part.vh, whole.vh[start:stop])):
            assert torch.allclose(found, expected, atol=1e-9)
        assert torch.equal(part.s, spectrum.s[start:stop])


@given(
    st.integers(4, 24), st.integers(4, 24), st.lists(st.integers(0, 6), min_size=1, max_size=4), decades, decades, seeds
)
@settings(max_examples=100)
def test_matrices_side_by_side_are_taken_apart(out, into, ranks, spread, twin, seed):
    """However singular their factors are: what is multiplied again is [D_1 D_2 ...], and each direction is one of it."""
    matrices = [matrix(out, into, rank, seed + at) for at, rank in enumerate(ranks)]
    for at, low in enumerate(matrices):
        low.up.mul_(10.0 ** (spread * at))
        if low.rank > 1:
            low.down[-1] = low.down[0] + 10.0**twin * low.down[-1]
            low.up[:, -1] = low.up[:, 0]
    stretched, directions = side_by_side(matrices)
    whole = torch.cat([low.dense() for low in matrices], 1)
    scale = sum(float(low.up.norm() * low.down.norm()) for low in matrices)
    found = torch.cat([stretched @ of for of in directions], 1)
    assert torch.allclose(found, whole, rtol=0, atol=1e-10 * scale + 1e-300)
    rows = torch.cat(directions, 1)
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-6)


def test_the_quick_svd_of_a_small_difference_of_large_products():
    low = matrix(24, 20, 2, 5)
    up = torch.cat([low.up, -low.up * (1 + 1e-9)], 1)
    both = LowRank(up, torch.cat([low.down, low.down + 1e-5 * matrix(2, 20, 2, 6).dense()[:2]]))
    assert torch.allclose(quick_svd(both).s, both.svd().s, rtol=1e-6)


def test_the_quick_svd_takes_the_slow_way_for_numbers_that_gram_matrices_do_not_hold():
    low = matrix(9, 7, 3, 0)
    for factor in (1e-170, 1e170):
        large = LowRank(low.up * factor, low.down)
        assert torch.allclose(quick_svd(large).s / factor, low.svd().s, rtol=1e-12)
    for empty in (
        LowRank(low.up * 0, low.down),
        LowRank(low.up[:, :0], low.down[:0]),
        LowRank(low.up[:2], low.down[:, :2]),
    ):
        found = quick_svd(empty)
        assert torch.allclose(found.u @ torch.diag(found.s) @ found.vh, empty.dense(), atol=1e-12)


@given(sizes, sizes, st.integers(1, 8), st.integers(0, 8), seeds)
@settings(max_examples=60)
def test_truncation_is_the_best_and_its_error_is_exact(out, into, rank, keep, seed):
    low = matrix(out, into, rank, seed)
    short, error = low.truncate(keep)
    values = torch.linalg.svdvals(low.dense())
    assert short.rank <= keep
    measured = float(torch.linalg.matrix_norm(short.dense() - low.dense()) / torch.linalg.matrix_norm(low.dense()))
    assert math.isclose(measured, error, abs_tol=1e-9)
    best = float(values[keep:].norm() / values.norm())  # Eckart and Young
    assert math.isclose(error, best, abs_tol=1e-9)


@given(sizes, sizes, st.integers(0, 8), st.integers(0, 8), st.floats(-3, 3), st.floats(-3, 3), seeds)
@settings(max_examples=60)
def test_concat_is_the_sum(out, into, rank_a, rank_b, a, b, seed):
    one, two = matrix(out, into, rank_a, seed), matrix(out, into, rank_b, seed + 1)
    total = LowRank.concat([(one, a), (two, b)])
    assert total.rank == rank_a + rank_b
    assert torch.allclose(total.dense(), a * one.dense() + b * two.dense(), atol=1e-10)


@given(sizes, sizes, st.integers(1, 6), seeds)
@settings(max_examples=40)
def test_norms_and_products_are_the_dense_ones(out, into, rank, seed):
    one, two = matrix(out, into, rank, seed), matrix(out, into, rank + 1, seed + 1)
    assert math.isclose(one.frobenius_norm(), float(torch.linalg.matrix_norm(one.dense())), rel_tol=1e-10)
    assert math.isclose(one.inner(two), float((one.dense() * two.dense()).sum()), abs_tol=1e-9)


@given(sizes, sizes, st.integers(1, 6), seeds)
@settings(max_examples=40)
def test_results_do_not_depend_on_the_factorisation(out, into, rank, seed):
    """up @ G and inv(G) @ down are the same matrix (gauge invariance)."""
    low = matrix(out, into, rank, seed)
    gauge = torch.linalg.qr(matrix(rank, rank, rank, seed + 2).dense()).Q * torch.linspace(
        0.5, 2, rank, dtype=torch.float64
    )
    other = LowRank(low.up @ gauge, torch.linalg.inv(gauge) @ low.down)
    assert math.isclose(low.frobenius_norm(), other.frobenius_norm(), rel_tol=1e-9)
    assert torch.allclose(low.singular_values(), other.singular_values(), rtol=1e-9)


def test_gram_matrix_holds_all_inner_products():
    matrices = [matrix(7, 5, rank, seed) for seed, rank in enumerate((1, 3, 0, 4))]
    found = gram_matrix(matrices)
    expected = torch.tensor(
        [[float((a.dense() * b.dense()).sum()) for b in matrices] for a in matrices], dtype=torch.float64
    )
    assert torch.allclose(found, expected, atol=1e-10)
    assert gram_matrix([]).shape == (0, 0)


def test_tiny_and_rank_zero_matrices():
    zero = matrix(4, 5, 0, 0)
    assert zero.frobenius_norm() == 0 and zero.singular_values().numel() == 0
    assert zero.truncate(3)[1] == 0
    tiny = matrix(4, 5, 2, 0).scaled(1e-150)
    assert tiny.frobenius_norm() > 0


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(LoraShapeError, match="no common rank"):
        LowRank(torch.zeros(4, 2), torch.zeros(3, 4))
    with pytest.raises(LoraShapeError, match="different shapes"):
        LowRank.concat([(matrix(4, 5, 2, 0), 1.0), (matrix(4, 6, 2, 0), 1.0)])
    with pytest.raises(LoraShapeError, match="cannot be compared"):
        matrix(4, 5, 2, 0).inner(matrix(5, 4, 2, 0))
    with pytest.raises(LoraShapeError, match="nothing"):
        LowRank.concat([])


def test_singular_values_of_many_are_those_of_each():
    """Of one shape and of several, with a product that is zero, one that is singular, and one of more rank than it can have."""
    lows = [matrix(9, 7, rank, seed) for seed, rank in enumerate((3, 3, 2, 3, 8, 3, 0, 3))]
    lows[3].up.zero_()
    lows[5].down[2] = lows[5].down[1]
    products = [(low.up, low.down) for low in lows]
    products.append((lows[0].up.half(), lows[0].down.half()))
    for found, (up, down) in zip(singular_values_of_all(products), products, strict=True):
        dense = torch.linalg.svdvals(up.double() @ down.double())
        count = min(up.shape[0], up.shape[1], down.shape[1])
        assert found.shape == (count,) and torch.allclose(found, dense[:count], atol=1e-6)
        assert torch.allclose(found, singular_values_of(up, down), atol=1e-6)
