"""Adding up, merging, shrinking and cutting spectra against dense float64 arithmetic."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.benchmarks.machine import peak_memory
from strata.lora_math.adapters import DoRA, LoHa, LoKr, LoRA, SetWeight
from strata.lora_math.algebra.budget import Budget, choose
from strata.lora_math.algebra.change import Change, OnDemand, change_of, shape_of, total
from strata.lora_math.algebra.elementwise import combine
from strata.lora_math.algebra.merge import coefficients, gram, merge
from strata.lora_math.algebra.shrink import quality, shrink
from strata.lora_math.algebra.sketch import leading_svd
from strata.lora_math.choices import METHODS
from strata.lora_math.errors import StrataError
from strata.lora_math.low_rank import LowRank

seeds = st.integers(0, 2**20)
quick = settings(max_examples=25)
LAYERS = {"a": (20, 14), "b": (12, 6, 3, 3), "c": (9, 30)}
WITHIN_FACTORS = [m for m in METHODS if m in ("sum", "average", "normalize", "orthogonalize", "slerp")]


def change(shape, rank: int, seed: int, size: float = 1.0) -> Change:
    g = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], rank, generator=g, dtype=torch.float64) * size
    return Change(LowRank(up, torch.randn(rank, math.prod(shape[1:]), generator=g, dtype=torch.float64)), None, shape)


def lora(seed: int, rank: int = 4, layers=LAYERS, size: float = 1.0) -> dict[str, Change]:
    return {name: change(shape, rank, seed * 10 + i, size) for i, (name, shape) in enumerate(layers.items())}


def flat(one) -> torch.Tensor:
    return torch.cat(
        [
            one[name].dense().flatten() if name in one else torch.zeros(math.prod(s)).double()
            for name, s in LAYERS.items()
        ]
    )


class TestChange:
    @given(seeds, st.floats(-2, 2), st.floats(-2, 2))
    @quick
    def test_terms_add_up_to_their_deltas(self, seed, a, b):
        g = torch.Generator().manual_seed(seed)
        r = lambda *s: torch.randn(s, generator=g, dtype=torch.float64)  # noqa: E731
        one = LoRA(r(16, 3), r(3, 12), None, 0.7)
        two = LoKr((r(4, 1), r(1, 3)), (r(4, 2), r(2, 4)), 0.4)
        three = LoHa(r(16, 8), r(8, 12), r(16, 8), r(8, 12))  # too high a rank for factors
        weight = torch.zeros(16, 12, dtype=torch.float64)
        for adapters in ((one, two), (one, two, three)):
            found = change_of([(a, adapters[0]), *((b, adapter) for adapter in adapters[1:])])
            expected = one.delta(weight, a) + sum(adapter.delta(weight, b) for adapter in adapters[1:])
            assert torch.allclose(found.dense(), expected, rtol=0, atol=1e-12 * (1 + float(expected.abs().max())))
            assert (found.low is None) == (three in adapters)

    def test_what_depends_on_the_weight_meets_what_came_before(self):
        weight = torch.randn(16, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        first = LoRA(torch.ones(16, 1), torch.ones(1, 12), None, 0.3)
        dora = DoRA(LoRA(torch.ones(16, 1), torch.arange(12.0)[None]), torch.full((16,), 3.0), 0)
        terms = [(0.5, first), (0.8, dora)]
        left = weight + first.delta(weight, 0.5)
        expected = left + dora.delta(left, 0.8) - weight
        assert torch.allclose(change_of(terms, weight=weight).dense(), expected, atol=1e-12)
        with pytest.raises(StrataError, match="DoRA changes a weight by what is in it: connect the model"):
            change_of(terms, (16, 12))
        with pytest.raises(StrataError, match="set"):
            change_of([(1.0, SetWeight(torch.zeros(16, 12)))], (16, 12))

    def test_a_layer_of_another_size_is_refused(self):
        with pytest.raises(StrataError, match="16x12"):
            change_of([(1.0, LoRA(torch.ones(16, 1), torch.ones(1, 12)))], (16, 13))


class TestShrink:
    @given(seeds)
    @quick
    def test_the_full_rank_is_the_identity(self, seed):
        one = lora(seed)
        stored = shrink(one, Budget("rank", 64), torch.float64)
        for name, layer in stored.items():
            dense = one[name].dense().reshape(len(layer.up), -1)
            assert torch.allclose(layer.up @ layer.down, dense, rtol=0, atol=1e-11)
            assert layer.rank == 4 and layer.error <= 1e-12 * layer.norm
            assert math.isclose(float(layer.up.norm()), float(layer.down.norm()), rel_tol=1e-9)

    @given(seeds, st.integers(1, 4), st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
    @quick
    def test_the_error_that_is_told_is_the_one_that_is_measured(self, seed, rank, dtype):
        one = lora(seed)
        stored = shrink(one, Budget("rank", rank), dtype)
        lost = torch.cat(
            [(s.up.double() @ s.down.double() - one[n].dense().flatten(1)).flatten() for n, s in stored.items()]
        )
        whole = torch.cat([c.dense().flatten() for c in one.values()])
        measured, found = float(lost.norm() / whole.norm()), quality(stored)
        assert math.isclose(measured, found.error, rel_tol=2e-2 if rank == 4 else 1e-4, abs_tol=1e-12)
        gain = float((lost + whole) @ whole / whole.square().sum())
        assert math.isclose(gain, found.gain, rel_tol=1e-6)
        if dtype == torch.float64:
            energy = sum(float(torch.linalg.svdvals(c.dense().flatten(1))[:rank].square().sum()) for c in one.values())
            assert math.isclose(measured, math.sqrt(max(0, 1 - energy / float(whole.square().sum()))), abs_tol=1e-6)

    @given(seeds, st.floats(-4, -0.5), st.sampled_from([torch.float16, torch.bfloat16]))
    @quick
    def test_what_cancels_is_rounded_after_it_has_cancelled(self, seed, twin, dtype):
        """A later epoch less an earlier one: what is left is small, and is told as well as any other change of its size."""
        one, other = change((64, 48), 4, seed), change((64, 48), 4, seed + 1)
        near = LowRank(one.low.up + 10.0**twin * other.low.up, one.low.down + 10.0**twin * other.low.down)
        left = total([(one, 1.0), (Change(near, None, one.shape), -1.0)])
        stored = shrink({"x": left}, Budget(), dtype)["x"]
        lost = float((stored.up.double() @ stored.down.double() - left.dense()).norm())
        assert math.isclose(lost, stored.error, rel_tol=0.05, abs_tol=1e-13 * float(one.dense().norm()))
        assert lost < (2e-3 if dtype == torch.float16 else 2e-2) * float(left.dense().norm())

    def test_what_fits_into_fewer_ranks_is_stored_in_fewer(self):
        one = change((64, 48), 4, 1)
        twice = total([(one, 1.0), (one, 0.5)])
        for budget in (Budget(), Budget("rank", 64)):
            assert shrink({"x": twice}, budget, torch.float32)["x"].rank == 4

    @given(seeds, st.floats(0.05, 1))
    @quick
    def test_energy_is_kept_and_nothing_more(self, seed, share):
        one = {n: c.scaled(10.0**i) for i, (n, c) in enumerate(lora(seed).items())}
        stored = shrink(one, Budget("energy", share), torch.float64)
        assert quality(stored).error ** 2 <= 1 - share + 1e-9
        ranks = {n: s.rank for n, s in stored.items()}
        # Without the last value that was taken, less than the share is left.
        values = {name: torch.linalg.svdvals(c.dense().flatten(1)).square() for name, c in one.items()}
        last = min(
            (name for name in one if ranks[name]),
            key=lambda name: float(values[name][ranks[name] - 1]) / sum(one[name].low.shape),
        )
        kept = sum(float(values[name][: rank - (name == last)].sum()) for name, rank in ranks.items())
        assert kept < share * sum(float(v.sum()) for v in values.values())

    def test_error_is_energy_in_other_words(self):
        one = lora(3)
        by_error = shrink(one, Budget("error", 0.3), torch.float64)
        by_energy = shrink(one, Budget("energy", 1 - 0.09), torch.float64)
        assert [s.rank for s in by_error.values()] == [s.rank for s in by_energy.values()]
        assert quality(by_error).error <= 0.3

    @given(seeds, st.integers(300, 6000))
    @quick
    def test_a_size_is_never_exceeded_and_well_used(self, seed, size):
        one = lora(seed)
        costs = {n: (c.low.shape[0] + c.low.shape[1]) * 2 for n, c in one.items()}
        stored = shrink(one, Budget("size", size), torch.float16)
        used = sum(s.rank * costs[n] for n, s in stored.items())
        assert used <= size
        left = [costs[n] for n, s in stored.items() if s.rank < 4]
        assert not left or size - used < min(left), "one more rank would have fitted"

    def test_choosing_over_all_layers_beats_one_rank_for_all(self):
        one = {"a": change((40, 40), 8, 1, 5.0), "b": change((40, 40), 8, 2, 0.1)}
        even = shrink(one, Budget("rank", 4), torch.float64)
        free = shrink(one, Budget("size", 8 * 80 * 8), torch.float64)
        assert sum(s.rank for s in free.values()) == 8 == sum(s.rank for s in even.values())
        assert quality(free).error < quality(even).error / 5

    def test_clip_cuts_only_what_is_above(self):
        one = lora(4)
        limit = float(torch.linalg.svdvals(one["a"].dense())[1])
        stored = shrink(one, Budget(), torch.float64, clip=limit)["a"]
        u, s, vh = torch.linalg.svd(one["a"].dense(), full_matrices=False)
        assert torch.allclose(stored.up @ stored.down, (u * s.clamp(max=limit)) @ vh, atol=1e-10)

    def test_numbers_too_large_for_half_precision(self):
        one = {"layer.7": change((4, 4), 1, 0, 1e12)}
        with pytest.raises(StrataError, match=r"layer\.7 has numbers that fp16 cannot hold. Save it as bf16"):
            shrink(one, Budget(), torch.float16)
        assert quality(shrink(one, Budget(), torch.bfloat16)).error < 0.01

    def test_a_dense_change_becomes_low_rank_only_where_asked(self):
        dense = Change(None, change((30, 20), 3, 5).dense(), (30, 20))
        bias = Change(None, torch.arange(9.0, dtype=torch.float64), (9,))
        kept = shrink({"x": dense, "x.bias": bias}, Budget(), torch.float32)
        assert kept["x"].whole.shape == (30, 20) and kept["x"].rank is None
        cut = shrink({"x": dense, "x.bias": bias}, Budget("rank", 2), torch.float64)
        assert cut["x"].rank == 2 and cut["x.bias"].whole is not None
        values = torch.linalg.svdvals(dense.whole)
        assert math.isclose(cut["x"].error, float(values[2:].norm()), rel_tol=1e-6)

    @pytest.mark.parametrize("kind, allowed", [("error", 0.3), ("energy", 0.91), ("error", 0.02)])
    def test_what_no_rank_was_looked_at_for_counts_as_lost(self, kind, allowed):
        """A dense change of 320 ranks, of which 256 are looked at: what lies beyond them is part of the error."""
        g = torch.Generator().manual_seed(7)
        dense = Change(None, torch.randn(320, 320, generator=g, dtype=torch.float64), (320, 320))
        stored = shrink({"x": dense, "y": change((60, 50), 4, 1)}, Budget(kind, allowed), torch.float64)
        x = stored["x"]
        lost = float((x.up.double() @ x.down.double() - dense.whole).norm())
        assert math.isclose(lost, x.error, rel_tol=1e-5)
        asked = allowed if kind == "error" else math.sqrt(1 - allowed)
        if asked == 0.02:  # out of reach: everything that was looked at is kept
            assert x.rank == 256 and quality(stored).error > 0.05
        else:
            assert 0.9 * asked < quality(stored).error <= asked and x.rank < 256

    def test_a_rank_is_kept_however_large(self):
        dense = Change(None, torch.randn(320, 300, dtype=torch.float64), (320, 300))
        assert shrink({"x": dense}, Budget("rank", 290), torch.float32)["x"].rank == 290

    @pytest.mark.parametrize("budget", [Budget(), Budget("rank", 4), Budget("energy", 0.5)])
    @pytest.mark.parametrize("method", ["sum", "slerp", "ties", "knots dare"])
    def test_one_layer_is_held_at_a_time(self, method, budget):
        """Not the changes of all layers in float64, however they are merged and shrunk."""
        shape, count, rank = (256, 192), 24, 4
        makers = [
            {str(i): partial(change, shape, rank, 100 * one + i) for i in range(count)} for one in range(2)
        ]  # fmt: skip
        one = math.prod(shape) * 8
        # What is stored, or, to choose over all layers, up to 256 singular triplets of a matrix without factors, in float32.
        share = {"exact": 0.5, "rank": 0.1, "energy": 1.0}[budget.kind] if method == "ties" else 0.1
        kept = share * count * one
        run = lambda: shrink(merge([OnDemand(m) for m in makers], [1, 0.5], method), budget, torch.float32)  # noqa: E731
        assert peak_memory(run) < 12 * one + kept < 2 * count * one

    @pytest.mark.parametrize(
        "kind, amount",
        [
            ("rank", 0),
            ("rank", 2.5),
            ("energy", 0),
            ("energy", 1.1),
            ("error", 1),
            ("size", -1),
            ("size", math.nan),
            ("x", 1),
        ],
    )
    def test_amounts_that_mean_nothing(self, kind, amount):
        with pytest.raises(StrataError, match="must be"):
            Budget(kind, amount)

    def test_a_file_too_small_for_anything(self):
        with pytest.raises(StrataError, match="too small"):
            choose(Budget("size", 100), [torch.tensor([1.0])], [200])


class TestSketch:
    @given(seeds, st.integers(1, 12))
    @quick
    def test_it_finds_what_is_there(self, seed, rank):
        g = torch.Generator().manual_seed(seed)
        matrix = torch.randn(150, 12, generator=g, dtype=torch.float64) @ torch.randn(
            12, 120, generator=g, dtype=torch.float64
        )
        found, exact = leading_svd(matrix, rank), torch.linalg.svdvals(matrix)
        assert torch.allclose(found.s, exact[:rank], rtol=1e-9)
        best = float(exact[rank:].norm())
        assert float((matrix - (found.u * found.s) @ found.vh).norm()) <= best * (1 + 1e-9) + 1e-9

    def test_near_the_best_on_a_slow_spectrum(self):
        g = torch.Generator().manual_seed(1)
        u = torch.linalg.qr(torch.randn(300, 300, generator=g, dtype=torch.float64)).Q
        v = torch.linalg.qr(torch.randn(300, 300, generator=g, dtype=torch.float64)).Q
        s = 1 / torch.arange(1, 301, dtype=torch.float64).sqrt()
        matrix = (u * s) @ v.T
        found = leading_svd(matrix, 32)
        assert float((matrix - (found.u * found.s) @ found.vh).norm()) <= 1.01 * float(s[32:].norm())


class TestMerge:
    @given(seeds, st.floats(-2, 2), st.floats(-2, 2))
    @quick
    def test_a_sum_is_the_sum(self, seed, a, b):
        one, two = lora(seed), lora(seed + 1, rank=3)
        del two["c"]
        assert torch.allclose(flat(merge([one, two], [a, b])), a * flat(one) + b * flat(two), rtol=0, atol=1e-10)

    @given(seeds)
    @quick
    def test_the_gram_matrix_is_of_whole_loras(self, seed):
        loras = [lora(seed), lora(seed + 1, rank=3), {"a": lora(seed + 2)["a"]}]
        loras[1]["b"] = Change(None, loras[1]["b"].dense(), LAYERS["b"])
        vectors = torch.stack([flat(one) for one in loras])
        assert torch.allclose(gram(loras), vectors @ vectors.T, rtol=1e-10, atol=1e-9)

    @pytest.mark.parametrize("method", WITHIN_FACTORS)
    @given(seed=seeds, weights=st.lists(st.floats(-2, 2).filter(lambda w: abs(w) > 0.05), min_size=3, max_size=3))
    @quick
    def test_against_dense_arithmetic(self, method, seed, weights):
        loras = [lora(seed + i, rank=2 + i, size=1.0 + i) for i in range(3)]
        v = [flat(one) for one in loras]
        lengths = [float(x.norm()) for x in v]
        w = weights
        found = flat(merge(loras, w, method))
        if method == "average":
            expected = sum(x * y for x, y in zip(v, w, strict=True)) / sum(map(abs, w))
        elif method == "normalize":
            expected = sum(x / n * y for x, n, y in zip(v, lengths, w, strict=True)) * (sum(lengths) / 3)
        elif method == "orthogonalize":
            q, r = torch.linalg.qr(torch.stack(v, 1))
            expected = q @ (r.diagonal() * torch.tensor(w, dtype=torch.float64))
        elif method == "slerp":
            units = [x / n * math.copysign(1, y) for x, n, y in zip(v, lengths, w, strict=True)]
            share = [abs(y) / sum(map(abs, w)) for y in w]
            p = found / found.norm()
            # A mean on the sphere is where the pulls of all points cancel.
            pulls = []
            for unit, part in zip(units, share, strict=True):
                dot = float(p @ unit)
                angle = math.acos(max(-1, min(1, dot)))
                pulls.append(part * angle / max(math.sin(angle), 1e-12) * (unit - dot * p))
            assert float(sum(pulls).norm()) < 1e-5
            assert math.isclose(
                float(found.norm()),
                sum(s * n * abs(y) for s, n, y in zip(share, lengths, w, strict=True)),
                rel_tol=1e-9,
            )
            return
        else:
            expected = sum(x * y for x, y in zip(v, w, strict=True))
        assert torch.allclose(found, expected, rtol=0, atol=1e-8 * (1 + float(expected.abs().max())))

    def test_slerp_of_two_is_slerp(self):
        one, two, t = lora(1), lora(2), 0.3
        a, b = flat(one), flat(two)
        ua, ub = a / a.norm(), b / b.norm()
        angle = math.acos(float(ua @ ub))
        expected = (math.sin((1 - t) * angle) * ua + math.sin(t * angle) * ub) / math.sin(angle)
        found = flat(merge([one, two], [1 - t, t], "slerp"))
        assert torch.allclose(found / found.norm(), expected, atol=1e-9)

    def test_orthogonalizing_a_copy_leaves_one(self):
        one = lora(1)
        assert torch.allclose(flat(merge([one, dict(one)], [1, 1], "orthogonalize")), flat(one), atol=1e-8)

    @given(seeds)
    @quick
    def test_knots_without_dropping_is_the_sum(self, seed):
        """At density 1 DARE drops nothing, and what is left of KnOTS is linear."""
        loras = [lora(seed), lora(seed + 1, rank=3)]
        merged = merge(loras, [0.5, -1.5], "knots dare", density=1)
        assert torch.allclose(flat(merged), 0.5 * flat(loras[0]) - 1.5 * flat(loras[1]), atol=1e-8)
        assert all(c.low is not None and c.low.rank <= 7 for c in merged.values())

    @pytest.mark.parametrize("method", ["knots ties", "knots dare"])
    def test_knots_does_not_depend_on_how_factors_are_written(self, method):
        """Ranks that change nothing, and a whole layer that is dead."""
        generator = torch.Generator().manual_seed(3)
        make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        change = lambda up, down: {"x": Change(LowRank(up, down), None, (64, 48))}  # noqa: E731
        up, down, nothing, any_down = make(64, 6), make(6, 48), torch.zeros(64, 10).double(), make(10, 48)
        one = change(make(64, 6), make(6, 48))
        padded = change(torch.cat([up, nothing], 1), torch.cat([down, any_down]))
        empty = change(nothing[:, :0], any_down[:0])
        for plain, other in ((change(up, down), padded), (empty, change(nothing, any_down))):
            found = [merge([one, two], [1.0, 0.7], method, density=0.5)["x"].dense() for two in (plain, other)]
            assert torch.allclose(*found, atol=1e-9)

    def test_knots_ties_against_the_paper_done_densely(self):
        loras = [lora(5), lora(6, rank=3)]
        merged = merge(loras, [1.0, 0.7], "knots ties", density=0.4)
        for name in LAYERS:
            blocks = [one[name].dense().flatten(1) for one in loras]
            u, s, vh = torch.linalg.svd(torch.cat(blocks, 1), full_matrices=False)
            u, s, vh = u[:, :7], s[:7], vh[:7]
            parts = combine(list(vh.split(blocks[0].shape[1], 1)), [1.0, 0.7], "ties", 0.4, 0)
            # Each direction's sign is free in U and V together: the product does not depend on it.
            assert torch.allclose(merged[name].low.dense(), (u * s) @ parts, atol=1e-8)

    def test_ties_by_hand(self):
        a, b = torch.tensor([4.0, -1.0, 0.5, 3.0]), torch.tensor([2.0, 5.0, 0.1, -3.5])
        # Kept halves: a: 4, 3; b: 5, -3.5. Signs elected: +, +, none, -.
        assert combine([a, b], [1, 1], "ties", 0.5, 0).tolist() == [4.0, 5.0, 0.0, -3.5]
        assert combine([a, b], [1, 1], "magnitude", 0.5, 0).tolist() == [4.0, 5.0, 0.0, -0.5]
        # A negative weight votes for the opposite.
        assert combine([a, b], [1, -1], "ties", 0.5, 0).tolist() == [4.0, -5.0, 0.0, 3.25]

    @pytest.mark.parametrize("method", ["dare", "della"])
    def test_dropping_keeps_the_mean(self, method):
        tensor = torch.linspace(-1, 1, 200_001, dtype=torch.float64) + 0.5
        found = combine([tensor], [2.0], method, 0.3, 7)
        assert math.isclose(float(found.mean()), 1.0, rel_tol=0.03)
        assert math.isclose(float((found != 0).double().mean()), 0.3, rel_tol=0.03)
        assert torch.equal(found, combine([tensor], [2.0], method, 0.3, 7))
        if method == "della":
            kept = tensor[found != 0].abs().mean()
            assert kept > tensor.abs().mean() * 1.05

    @pytest.mark.parametrize("method", METHODS)
    def test_layers_of_different_sizes_are_refused_by_name(self, method):
        other = {"a": change((20, 15), 2, 1)}
        with pytest.raises(StrataError, match="a is 20x14 and 20x15: these LoRAs were made for different models"):
            dict(merge([lora(1), other], [1, 1], method))  # each layer when it is asked for

    def test_nothing_to_go_by(self):
        zero = {name: c.scaled(0.0) for name, c in lora(1).items()}
        with pytest.raises(StrataError, match="LoRA 2 changes nothing, so slerp"):
            merge([lora(1), zero], [1, 1], "slerp")
        with pytest.raises(StrataError, match="opposites"):
            coefficients(gram([lora(1), {n: c.scaled(-1.0) for n, c in lora(1).items()}]), [1.0, 1.0], "slerp")


def test_total_of_products_and_differences():
    low = change((6, 5), 2, 1)
    whole = Change(None, torch.ones(6, 5, dtype=torch.float64), (6, 5))
    assert total([(low, 2.0), (low, -1.0)]).low.rank == 4
    assert torch.allclose(total([(low, 2.0), (whole, -1.0)]).dense(), 2 * low.dense() - 1)


def test_a_kernel_that_one_file_tells_is_the_layers():
    """One file stores a 3 x 3 convolution as it is, the other flat: together it is a convolution, in whichever order."""
    as_it_is = LoRA(torch.randn(8, 2, 1, 1), torch.randn(2, 6, 3, 3))
    flat = LoRA(torch.randn(8, 2), torch.randn(2, 54))
    for terms in ([(1.0, as_it_is), (0.5, flat)], [(0.5, flat), (1.0, as_it_is)]):
        assert shape_of(terms) == (8, 6, 3, 3)
    assert shape_of([(1.0, flat)]) == (8, 54)
