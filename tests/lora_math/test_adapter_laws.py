"""What must hold for every adapter whatever its formula: strength, storage, the ways of applying it, exact factors, refusals."""

import pytest
import torch
from adapter_kinds import (
    ALL,
    FACTORED,
    IN,
    LINEAR,
    OUT,
    RANK,
    SHAPES,
    build,
    every_adapter,
    every_shape,
    quick,
    weight_of,
)
from hypothesis import given
from hypothesis import strategies as st
from reference_layers import as_layer, make
from torch.nn import Linear

from strata.lora_math.adapters import (
    OFT,
    DoRA,
    LoHa,
    LoRA,
    Padded,
    from_record,
)
from strata.lora_math.adapters.matrices import TILE
from strata.lora_math.energy import CHUNK
from strata.lora_math.low_rank import LowRank


@every_adapter
@every_shape
def test_zero_strength_is_the_model_itself(kind, layer):
    adapter, weight = build(kind, layer), weight_of(layer)
    assert not adapter.delta(weight, 0.0).any()
    assert torch.equal(adapter.apply_(weight.clone(), 0.0, torch.float64), weight)


@every_adapter
def test_an_adapter_that_says_it_is_linear_is(kind):
    """``is_linear`` is said of a whole class: of a class that denies it, some form is not."""
    adapter = build(kind, "linear")
    assert (
        kind in LINEAR
        if adapter.is_linear
        else type(adapter) in {type(build(k, "linear")) for k in ALL if k not in LINEAR}
    )


@every_adapter
@every_shape
def test_a_product_is_its_delta_and_what_is_told_of_the_weight_is_true(kind, layer):
    adapter, weight = build(kind, layer), weight_of(layer)
    if adapter.is_product:
        for dtype in (None, torch.float64):
            up, down, scale = adapter.product(dtype)
            assert up.shape[1] == down.shape[0]
            assert torch.allclose(
                (scale * up @ down).reshape(weight.shape), adapter.delta(weight), rtol=1e-9, atol=1e-12
            )
    matrix = (OUT, weight[0].numel())
    assert adapter.weight_shape in (None, matrix, tuple(weight.shape))
    assert adapter.matrix_shape in (None, matrix)


@pytest.mark.parametrize("kind", LINEAR)
@given(strength=st.floats(-3, 3), factor=st.floats(-3, 3), seed=st.integers(0, 99))
@quick
def test_change_is_linear_in_strength(kind, strength, factor, seed):
    adapter, weight = build(kind, "conv2d", seed), weight_of("conv2d")
    unit = adapter.delta(weight)
    assert torch.allclose(adapter.delta(weight, strength), unit * strength, rtol=0, atol=1e-11)
    assert torch.allclose(
        adapter.delta(weight, strength * factor), adapter.delta(weight, strength) * factor, rtol=0, atol=1e-11
    )


@every_adapter
@every_shape
def test_record_survives_the_trip(kind, layer):
    adapter, weight = build(kind, layer), weight_of(layer)
    again = from_record(adapter.record())
    assert type(again) is type(adapter)
    assert torch.equal(again.delta(weight, 0.8), adapter.delta(weight, 0.8))
    moved = adapter.map_tensors(lambda tensor: tensor.clone())
    assert torch.equal(moved.delta(weight, 0.8), adapter.delta(weight, 0.8))


@every_adapter
@every_shape
def test_every_shape_it_was_made_for_fits_and_others_do_not(kind, layer):
    adapter = build(kind, layer)
    shape = SHAPES[layer]
    assert adapter.mismatch(shape) is None
    if kind not in ("IA3 input", "PEFT OFT", "PEFT OFT exact"):  # these say nothing about outputs
        assert isinstance(adapter.mismatch((OUT + 4, *shape[1:])), str)
    if kind not in (
        "IA3 output",
        "OFT",
        "OFT of several runs",
        "OFT rescaled",
        "BOFT",
    ):  # these say nothing about inputs
        assert isinstance(adapter.mismatch((OUT, IN + 1, *shape[2:])), str)
    assert isinstance(adapter.mismatch(()), str)
    assert isinstance(adapter.mismatch((OUT + 1, IN + 1)), str)


@every_adapter
@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_in_place_is_the_weight_plus_delta(kind, layer, dtype):
    """To one rounding of the result, in every weight type, computed in float32."""
    adapter, weight = build(kind, layer), weight_of(layer, dtype)
    exact = weight.double() + adapter.delta(weight, 0.8)
    result = adapter.apply_(weight, 0.8, torch.float32)
    assert result is weight
    unit = torch.finfo(dtype).eps
    assert (result.double() - exact).abs().max() <= exact.abs().max() * max(unit * 0.51, 3e-6)


@every_adapter
def test_in_place_on_a_view_of_a_fused_weight(kind):
    adapter = build(kind, "linear")
    fused = torch.randn(3 * OUT, IN + 7, generator=torch.Generator().manual_seed(9))
    before = fused.clone()
    view = fused.narrow(0, OUT, OUT).narrow(1, 5, IN)
    exact = view.double() + adapter.delta(view.clone(), -0.6)
    adapter.apply_(view, -0.6, torch.float32)
    assert torch.allclose(view.double(), exact, rtol=0, atol=1e-5)
    view.copy_(before.narrow(0, OUT, OUT).narrow(1, 5, IN))
    assert torch.equal(fused, before)


@every_adapter
def test_in_place_on_channels_last(kind):
    adapter, weight = build(kind, "conv2d"), weight_of("conv2d")
    last = weight.clone().to(memory_format=torch.channels_last)
    adapter.apply_(last, 0.8, torch.float64)
    assert torch.allclose(last, weight + adapter.delta(weight, 0.8), rtol=0, atol=1e-12)


@every_adapter
def test_rows_in_another_order(kind):
    """A model that stores the two halves of its rows swapped gets the trained change with its halves swapped."""

    def swap(rows):
        return torch.cat(rows.chunk(2)[::-1])

    adapter, trained = build(kind, "linear"), weight_of("linear")
    swapped = swap(trained).clone()
    adapter.apply_(swapped, 0.8, torch.float64, swap)
    assert torch.allclose(swapped, swap(trained + adapter.delta(trained, 0.8)), rtol=0, atol=1e-12)


@every_adapter
@every_shape
@pytest.mark.parametrize("strength", [0.8, -1.5])
def test_forward_is_the_changed_layer(kind, layer, strength):
    """y + change must be f with W', bias and all, for a number and for a tensor as strength."""
    module, x = make(layer)
    weight = module.weight
    adapter = build(kind, layer)
    ready = adapter.prepared(weight)
    if ready is None:
        assert not adapter.has_forward or kind.startswith("PEFT")
        return
    described = as_layer(module)
    y = module(x)
    changed = torch.func.functional_call(module, {"weight": weight + adapter.delta(weight, strength)}, (x,))
    for s in (strength, torch.tensor(strength, dtype=torch.float64)):
        assert torch.allclose(ready.forward(described, x, y, s), changed, rtol=0, atol=1e-10)
    if not isinstance(adapter, DoRA):
        assert torch.allclose(adapter.forward(described, x, y, strength), changed, rtol=0, atol=1e-10)


@every_adapter
def test_forward_in_half_precision_is_no_worse_than_its_rounding(kind):
    """What the change is off by stays small beside the change, not beside the output: the point of never touching the weight."""
    if not build(kind, "linear").has_forward:
        return
    module, x = make("linear")
    weight = module.weight
    adapter = build(kind, "linear")
    exact = x @ adapter.delta(weight, 0.02).T
    half = Linear(IN, OUT).bfloat16()
    half.weight.data, half.bias.data = weight.bfloat16(), torch.zeros(OUT, dtype=torch.bfloat16)
    ready = adapter.prepared(weight)
    true = half(x.bfloat16())
    change = ready.forward(as_layer(half), x.bfloat16(), true, 0.02).double() - true.double()
    rounding = true.double().abs().max() * torch.finfo(torch.bfloat16).eps
    assert (change - exact).abs().max() <= rounding + 0.05 * exact.abs().max()


@pytest.mark.parametrize("kind", FACTORED)
@every_shape
def test_factors_multiply_to_the_delta(kind, layer):
    adapter, weight = build(kind, layer), weight_of(layer)
    low_rank = adapter.low_rank()
    assert low_rank.rank <= {"LoHa": 4, "LoHa Tucker": 4, "LoKr decomposed": 2}.get(kind, RANK)
    assert torch.allclose(low_rank.dense().reshape(weight.shape), adapter.delta(weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "kind", ["LoKr whole", "OFT", "BOFT", "IA3 output", "diff", "set", "sparse", "DoRA output", "GLoRA"]
)
def test_no_factors_where_there_are_none(kind):
    assert build(kind, "linear").low_rank() is None


@given(
    first=st.sampled_from(FACTORED),
    second=st.sampled_from(FACTORED),
    a=st.floats(-2, 2),
    b=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
@quick
def test_sum_of_adapters_is_their_concatenation(first, second, a, b, seed):
    one, two, weight = build(first, "conv2d", seed), build(second, "conv2d", seed + 1), weight_of("conv2d")
    joined = LowRank.concat([(one.low_rank(), a), (two.low_rank(), b)])
    assert torch.allclose(
        joined.dense().reshape(weight.shape), one.delta(weight, a) + two.delta(weight, b), rtol=0, atol=1e-11
    )


@given(seed=st.integers(0, 999))
@quick
def test_gauge_of_a_lora_means_nothing(seed):
    """up G and G^-1 down are the same LoRA."""
    lora, weight = build("LoRA", "linear", seed), weight_of("linear")
    gauge = torch.randn(RANK, RANK, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 3 * torch.eye(
        RANK
    )
    other = LoRA(lora.up @ gauge, torch.linalg.solve(gauge, lora.down), None, lora.scale)
    assert torch.allclose(other.delta(weight), lora.delta(weight), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "kind", ["LoRA", "LoRA stored as the layer", "LoHa", "LoKr decomposed", "DoRA output", "IA3 input", "GLoRA"]
)
@pytest.mark.parametrize(("trained", "used"), [("conv2d_1x1", "linear"), ("linear", "conv2d_1x1")])
def test_1x1_convolutions_and_linear_layers_are_the_same(kind, trained, used):
    adapter, weight = build(kind, trained), weight_of(used)
    assert adapter.mismatch(SHAPES[used]) is None
    as_trained = adapter.delta(weight.reshape(SHAPES[trained]), 0.8)
    assert torch.allclose(adapter.delta(weight, 0.8), as_trained.reshape(SHAPES[used]), rtol=0, atol=1e-12)
    module, x = make(used)
    module.weight.data = weight
    changed = torch.func.functional_call(module, {"weight": weight + adapter.delta(weight, 0.8)}, (x,))
    ready = adapter.prepared(weight)
    assert torch.allclose(ready.forward(as_layer(module), x, module(x), 0.8), changed, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["LoHa", "OFT"])
def test_in_place_on_a_weight_of_many_tiles(kind):
    out, inputs = 2100, 2048
    generator = torch.Generator().manual_seed(3)

    def r(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    adapter = (
        LoHa(r(out, 2), r(2, inputs), r(out, 2), r(2, inputs))
        if kind == "LoHa"
        else OFT((r(out // 4, 4, 4),), 1 + r(out))
    )
    weight = r(out, inputs)
    exact = weight + adapter.delta(weight, 0.7, torch.float32)
    assert weight.numel() > TILE
    assert torch.allclose(adapter.apply_(weight, 0.7, torch.float32), exact, rtol=0, atol=1e-5)


class TestEnergy:
    @every_adapter
    @every_shape
    def test_it_is_the_norm_of_the_dense_change(self, kind, layer):
        adapter = build(kind, layer)
        found = adapter.squared_norm(SHAPES[layer])
        if adapter.needs_weight and not isinstance(adapter, DoRA):
            assert found is None
        else:
            dense = adapter.inner if isinstance(adapter, (DoRA, Padded)) else adapter
            shape = adapter.shape if isinstance(adapter, Padded) else SHAPES[layer]
            delta = dense.delta(torch.zeros(shape, dtype=torch.float64), 1.0)
            assert found == pytest.approx(float(delta.square().sum()), rel=1e-5)

    @pytest.mark.parametrize("rank", [1, 31, 32, 33, 64, 100])
    @pytest.mark.parametrize("long", [False, True], ids=["whole", "in bands"])
    def test_of_every_rank(self, rank, long):
        generator, columns = torch.Generator().manual_seed(rank), 2 * CHUNK // rank + 70 if long else 300
        up, down = torch.randn(200, rank, generator=generator), torch.randn(rank, columns, generator=generator)
        exact = sum(float((up.double() @ part).square().sum()) for part in down.double().split(4096, 1)) * 0.25
        assert LoRA(up, down, None, 0.5).squared_norm((200, columns)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("length", [4610, 6144, 13001])
def test_energy_of_long_factors_counts_every_column_once(length):
    """They are multiplied piece by piece, and the pieces are of several kinds."""
    generator = torch.Generator().manual_seed(length)
    up, down = torch.randn(300, 128, generator=generator), torch.randn(128, length, generator=generator)
    down *= torch.linspace(0, 2, length)
    for adapter, shape in ((LoRA(up, down), (300, length)), (LoRA(down.T, up.T), (length, 300))):
        exact = float(adapter.delta(torch.zeros(shape, dtype=torch.float64), 1.0, torch.float64).square().sum())
        assert adapter.squared_norm(shape) == pytest.approx(exact, rel=1e-5)


@every_adapter
@every_shape
def test_no_change_reaches_further_than_it_says(kind, layer):
    adapter = build(kind, layer)
    change = float(adapter.delta(weight_of(layer), 1.0).abs().max())
    assert change <= adapter.reach * (1 + 1e-12)
    if not adapter.needs_weight and kind not in ("sparse", "set"):
        # Or every weight would be looked at: a Tucker core in both factors of LoHa is the loosest bound, 68 times.
        assert adapter.reach <= 100 * change
