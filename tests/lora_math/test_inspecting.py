"""What is told of one LoRA and of several, against dense float64 algebra of the changes themselves."""

import math

import pytest
import torch
from adapter_kinds import SHAPES, build
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.lora_math.adapters import DoRA, LoHa, LoKr, LoRA
from strata.lora_math.baking import Layer, layers_by_name
from strata.lora_math.inspecting import layers as measuring
from strata.lora_math.inspecting.layers import measure
from strata.lora_math.inspecting.one import numbers
from strata.lora_math.inspecting.several import epochs, meet, together
from strata.lora_math.low_rank import singular_values_of
from strata.lora_math.reading.state_dict import Entry

KNOWN = (
    *("LoRA", "LoRA stored as the layer", "LoRA Tucker", "LoHa", "LoHa Tucker"),
    *("LoKr whole", "LoKr decomposed", "LoKr Tucker", "DoRA output", "DoRA of LoKr"),
)
DEPENDENT = ("GLoRA", "OFT", "BOFT", "PEFT OFT", "IA3 output", "set", "diff", "sparse")


def random(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)


def entry(adapter, module: str = "lora_unet_a", parameter: str = "weight") -> Entry:
    return Entry(module, parameter, adapter, (f"{module}.x",))


def dense(adapter, shape) -> torch.Tensor:
    adapter = adapter.inner if isinstance(adapter, DoRA) else adapter
    return adapter.delta(torch.empty(shape, dtype=torch.float64)).flatten(1)


# The core of a Tucker form needs a kernel.
@pytest.mark.parametrize(
    ("kind", "layer"),
    [(kind, layer) for kind in KNOWN for layer in SHAPES if len(SHAPES[layer]) > 2 or not kind.endswith("Tucker")],
)
def test_singular_values_are_those_of_the_dense_change(kind, layer):
    adapter = build(kind, layer)
    if kind.startswith("LoHa") and adapter.factor_rank is None:
        assert math.isinf(adapter.spectrum_work)
        return
    found, expected = adapter.singular_values(), torch.linalg.svdvals(dense(adapter, SHAPES[layer]))
    shared = min(len(found), len(expected))
    assert torch.allclose(found[:shared], expected[:shared], rtol=0, atol=2e-7 * float(expected[0]))
    assert float(expected[shared:].sum()) < 1e-9 and float(found[shared:].sum()) < 1e-6
    assert bool((found.diff() <= 0).all())


@pytest.mark.parametrize("kind", DEPENDENT)
def test_what_depends_on_the_weight_or_is_stored_whole_has_no_spectrum(kind):
    adapter = build(kind, "linear")
    assert math.isinf(adapter.spectrum_work)
    (layer,) = measure([entry(adapter)])
    assert layer.values is None and layer.effective_rank == 0.0
    if not adapter.needs_weight:
        assert layer.norm == pytest.approx(float(torch.linalg.vector_norm(dense(adapter, SHAPES["linear"]))), rel=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 12))
def test_singular_values_of_any_product(seed, out, columns, rank):
    make = random(seed)
    up, down = make(out, rank), make(rank, columns)
    if rank > 2:
        up[:, 1] = up[:, 0]  # a direction twice
        down[2] = 0
    found = singular_values_of(up, down)
    expected = torch.linalg.svdvals(up @ down)[: len(found)] if rank else torch.zeros(0, dtype=torch.float64)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=2e-7 * float(expected.max()) if len(expected) else 0)


@settings(max_examples=25)
@given(st.integers(0, 1 << 30), st.floats(0.01, 100))
def test_another_gauge_and_another_scale_change_no_number_but_the_norm(seed, factor):
    make = random(seed)
    up, down, mix = make(20, 5), make(5, 30), make(5, 5)
    plain = measure([entry(LoRA(up, down))])[0]
    other = measure([entry(LoRA(up @ mix, torch.linalg.solve(mix, down), None, factor))])[0]
    assert other.norm == pytest.approx(plain.norm * factor, rel=1e-5)
    assert other.effective_rank == pytest.approx(plain.effective_rank, rel=1e-4)
    assert other.first_share == pytest.approx(plain.first_share, rel=1e-4)


def product(values, out=40, columns=30, seed=0) -> LoRA:
    """A LoRA with these singular values."""
    make = random(seed)
    left, right = torch.linalg.qr(make(out, len(values))).Q, torch.linalg.qr(make(columns, len(values))).Q
    return LoRA(left * torch.tensor(values, dtype=torch.float64), right.T)


def test_the_rank_that_keeps_99_percent_is_the_smallest_for_which_the_cut_loses_less_than_that():
    made = [product([10, 5, 1, 0.5, 0.1], seed=1), product([3, 3, 3, 0.2], seed=2)]
    found = numbers(measure([entry(m, f"m{i}") for i, m in enumerate(made)]), ["A", "B"])
    deltas = [dense(m, (40, 30)) for m in made]

    def lost(rank):
        return sum(float(torch.linalg.svdvals(d)[rank:].square().sum()) for d in deltas)

    total = sum(float(d.square().sum()) for d in deltas)
    expected = next(rank for rank in range(6) if lost(rank) <= 0.01 * total)
    assert found.whole.rank == expected == 3
    assert found.blocks["A"].rank == 2 and found.blocks["B"].rank == 3
    assert found.whole.energy == pytest.approx(total)
    assert [part.share for part in found.blocks.values()] == pytest.approx(
        [float(d.square().sum()) / total for d in deltas]
    )
    assert found.whole.kept[1] == pytest.approx(1 - lost(2) / total)


def test_effective_rank_of_equal_directions_is_their_number():
    (layer,) = measure([entry(product([2, 2, 2, 2]))])
    assert layer.effective_rank == pytest.approx(4)
    assert layer.first_share == pytest.approx(0.25)


def test_a_planted_spike_is_found_and_an_even_layer_is_none():
    entries = [entry(product([1, 0.9, 0.8], seed=i), f"m{i}") for i in range(5)]
    entries += [entry(product([9, 0.9, 0.8], seed=7), "spike"), entry(product([9, 9, 9, 9], seed=8), "large and even")]
    found = numbers(measure(entries), ["A"] * 7)
    assert [layer.module for layer in found.spikes] == ["spike"]
    assert found.spikes[0].largest == pytest.approx(9)


def test_dead_broken_and_little_layers_are_counted():
    entries = [entry(product([1, 1], seed=i), f"m{i}") for i in range(4)]
    entries += [entry(product([1e-4], seed=9), "little"), entry(LoRA(torch.zeros(40, 2), torch.ones(2, 30)), "dead")]
    entries += [entry(LoRA(torch.full((40, 2), math.nan), torch.ones(2, 30)), "broken")]
    found = numbers(measure(entries, ["broken.x"]), ["A"] * 7)
    assert (found.dead, found.broken, found.little) == (1, 1, 2)
    assert found.whole.layers == 6 and found.whole.energy == pytest.approx(8)


def test_factors_that_do_not_fit_each_other_count_as_broken():
    (layer,) = measure([entry(LoRA(torch.ones(4, 3), torch.ones(2, 5)))])
    assert layer.broken and layer.norm is None


def test_what_costs_too_much_is_left_out_and_counted_but_its_norm_is_known(monkeypatch):
    monkeypatch.setattr(measuring, "TOTAL_WORK", 2000)
    entries = [entry(product([1.0], seed=1), "small"), entry(product([1.0] * 20, seed=2), "large")]
    found = numbers(measure(entries), ["A", "A"])
    assert found.unknown == 1 and found.layers[1].values is None
    assert found.layers[1].norm == pytest.approx(math.sqrt(20), rel=1e-5)


# Several


def compare(*loras, strengths=None):
    found = meet([Layer("m", "weight", {i: [(1.0, lora)] for i, lora in enumerate(loras)})])
    return together(found.layers, [strengths or [1.0] * len(loras)], len(loras))


@settings(max_examples=25)
@given(st.integers(0, 1 << 30), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_the_sum_of_three_is_as_strong_as_the_dense_sum(seed, strengths):
    make = random(seed)
    loras = [
        LoRA(make(18, 4), make(4, 14), None, 0.5),
        LoKr((make(2, 2),), (make(9, 7),), 0.3),
        LoHa(make(18, 2), make(2, 14), make(18, 2), make(2, 14), scale=0.2),
    ]
    found = compare(*loras, strengths=strengths)
    deltas = [dense(lora, (18, 14)) * s for lora, s in zip(loras, strengths, strict=True)]
    total = float(torch.linalg.vector_norm(sum(deltas)))
    alone = [float(torch.linalg.vector_norm(delta)) for delta in deltas]
    assert found.norm == pytest.approx(total, rel=1e-6, abs=1e-6 * max(alone, default=0))
    assert found.norms.tolist() == pytest.approx(alone, rel=1e-6)
    for i in range(3):
        for j in range(3):
            if alone[i] * alone[j] > 1e-12:
                expected = float((deltas[i] * deltas[j]).sum()) / (alone[i] * alone[j])
                assert float(found.cosines[i, j]) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 1 << 30))
def test_overlap_is_that_of_dense_singular_vectors_and_no_matter_of_order_gauge_or_strength(seed):
    make = random(seed)
    a, b = product([5, 4, 3, 0.1], seed=seed % 1000), product([2, 2, 1], seed=seed % 1000 + 1)
    found = compare(a, b, strengths=[0.7, -2.0])

    def basis(lora):
        u, s, vh = torch.linalg.svd(dense(lora, (40, 30)), full_matrices=False)
        kept = torch.cumsum(s.square(), 0) / s.square().sum()
        count = int((kept < 0.9).sum()) + 1
        return u[:, :count], vh[:count].T

    (ua, va), (ub, vb) = basis(a), basis(b)
    few = min(ua.shape[1], ub.shape[1])
    expected = float((ua.T @ ub).square().sum() + (va.T @ vb).square().sum()) / (2 * few)
    assert float(found.overlap[0, 1]) == pytest.approx(expected, abs=1e-6)
    many = max(ua.shape[1], ub.shape[1])
    assert float(found.chance[0, 1]) == pytest.approx((many / 40 + many / 30) / 2)
    mix = make(3, 3)
    turned = LoRA(b.up @ mix, torch.linalg.solve(mix, b.down), None, 3.0)
    assert float(compare(turned, a).overlap[0, 1]) == pytest.approx(expected, abs=1e-5)


def test_half_shared_directions_are_half_an_overlap_though_nothing_is_aligned():
    left, right = torch.eye(40, dtype=torch.float64), torch.eye(30, dtype=torch.float64)
    a = LoRA(left[:, :4], right[:4])
    b = LoRA(left[:, [2, 3, 20, 21]], right[[3, 2, 22, 23]])  # two of its outputs and inputs are those of a, crosswise
    found = compare(a, b)
    assert float(found.cosines[0, 1]) == pytest.approx(0, abs=1e-12)
    assert float(found.overlap[0, 1]) == pytest.approx(0.5)
    assert float(found.chance[0, 1]) == pytest.approx((4 / 40 + 4 / 30) / 2)
    assert found.kind == "collide"


def test_equal_opposite_and_unrelated_loras_are_told_apart():
    a, b = product([3, 2, 1], seed=1), product([3, 2, 1], out=40, seed=2)
    same = compare(a, LoRA(a.up, a.down, None, 0.5))
    assert float(same.cosines[0, 1]) == pytest.approx(1) and same.kind == "reinforce"
    assert same.ratio == pytest.approx(1.5)
    opposite = compare(a, LoRA(-a.up, a.down))
    assert float(opposite.cosines[0, 1]) == pytest.approx(-1) and opposite.kind == "cancel"
    assert opposite.norm == pytest.approx(0, abs=1e-6)
    left, right = torch.eye(40, dtype=torch.float64), torch.eye(30, dtype=torch.float64)
    apart = compare(LoRA(left[:, :3], right[:3]), LoRA(left[:, 9:12], right[9:12]))
    assert apart.kind == "apart" and apart.interference == pytest.approx(1)
    assert compare(a, b, strengths=[1.0, 0.0]).kind == "alone"


def test_what_depends_on_the_weight_or_does_not_fit_is_named_and_the_rest_is_compared():
    layers = [
        Layer("oft", "weight", {0: [(1.0, build("OFT", "linear"))], 1: [(1.0, build("LoRA", "linear"))]}),
        Layer("sizes", "weight", {0: [(1.0, product([1.0]))], 1: [(1.0, product([1.0], out=41))]}),
        Layer("fine", "weight", {0: [(1.0, build("DoRA output", "linear"))], 1: [(1.0, build("LoRA", "linear"))]}),
    ]
    found = meet(layers)
    assert [name for name, _ in found.unknown] == ["oft", "sizes"]
    assert [meeting.name for meeting in found.layers] == ["fine"]
    # A DoRA counts as what it adds before it rescales: here the very same LoRA.
    assert float(together(found.layers, [[1.0, 1.0]], 2).cosines[0, 1]) == pytest.approx(1)


def test_layers_meet_under_other_wrappings_of_their_names():
    a, b = product([2, 1], seed=1), product([2, 1], seed=2)
    sources = [
        [entry(a, "lora_unet_down_blocks_0_attentions_0_proj_in")],
        [entry(b, "unet.down_blocks.0.attentions.0.proj_in")],
    ]
    found = meet(layers_by_name(sources))
    assert [meeting.at for meeting in found.layers] == [(0, 1)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a-000010", "a-000020", "a-000030"], [[0, 1, 2]]),
        (["a-30", "a", "b", "a-4"], [[3, 0, 1]]),
        (["cat_v1", "dog_v2", "bird_v3"], []),
        (["a1", "a2"], []),
        (["x/a-1_s2.safetensors", "x/a-3_s2.safetensors", "x/a-2_s2.safetensors"], [[0, 2, 1]]),
        (["9" * 5000, "a", "b"], []),
    ],
)
def test_epochs_of_one_training_are_names_that_differ_in_one_number(names, expected):
    assert epochs(names) == expected
