"""Several adapters run on a layer's input give what they give as changes of its weight, in float64, for every kind of layer."""

from __future__ import annotations

from math import prod

import pytest
import reference_layers
import torch

from strata.lora_math import stack
from strata.lora_math.adapters import IA3, OFT, Diff, DoRA, GLoRA, LoHa, LoKr, LoRA
from strata.lora_math.layer import Layer
from strata.lora_math.stack import Gains, LiveTerm

CPU = torch.device("cpu")


def normal(*shape, seed=0, size=0.1):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * size


def lora(shape, rank=3, seed=0) -> LoRA:
    ones = [1] * (len(shape) - 2)
    return LoRA(normal(shape[0], rank, *ones, seed=seed), normal(rank, *shape[1:], seed=seed + 50), None, 0.5)


def tucker(shape) -> LoRA:
    ones, kernel = [1] * (len(shape) - 2), shape[2:]
    if not kernel:
        return lora(shape, 2, 3)
    return LoRA(
        normal(shape[0], 2, *ones, seed=3),
        normal(2, shape[1], *ones, seed=4),
        normal(2, 2, *kernel, seed=5, size=1),
        0.5,
    )


def loha(shape) -> LoHa:
    columns = prod(shape[1:])
    sizes = ((shape[0], 2), (2, columns)) * 2
    return LoHa(*(normal(*size, seed=seed, size=0.3) for seed, size in enumerate(sizes)), None, None, 0.7)


def dora(weight, axis, seed=0) -> DoRA:
    dims = [d for d in range(weight.ndim) if d != axis]
    magnitude = torch.linalg.vector_norm(weight, dim=dims) * (1 + normal(weight.shape[axis], seed=seed + 9))
    return DoRA(lora(weight.shape, seed=seed), magnitude, axis)


def both_ways(module, x, terms, strengths=(1.0,), timestep=0.0, fixed=()):
    """(f'(x) by the steps, f'(x) by the weight changed term by term) at these strengths over time."""
    layer = reference_layers.as_layer(module)
    gains = Gains()

    def prepare(term, adapter, earlier):
        return adapter.prepared(stack.weight_before(term, earlier, module.weight.clone()), layer.groups)

    steps = stack.build(terms, layer, gains, CPU, torch.float64, prepare, fixed)
    gains.complete(CPU)
    gains.set(torch.tensor(strengths), timestep)
    found = stack.run(steps, layer, x, layer.base(x))
    weight, bias = module.weight.clone(), None if module.bias is None else module.bias.clone()
    for term in terms:
        term.now(strengths[term.group], timestep).apply_(bias if term.is_bias else weight, torch.float64)
    return found, reference_layers.run(module, weight, bias, x)


def assert_equal(pair, base, gain_rounding=2e-7):
    found, expected = pair
    change = (expected - base).norm()
    assert change > 1e-2 * base.norm()
    assert (found - expected).norm() < gain_rounding * change  # strengths are float32


@pytest.mark.parametrize("kind", reference_layers.KINDS)
def test_several_loras_on_every_kind_of_layer(kind):
    module, x = reference_layers.make(kind)
    shape = tuple(module.weight.shape)
    terms = [LiveTerm(0.7, lora(shape, 3, 1)), LiveTerm(-1.2, tucker(shape)), LiveTerm(0.4, lora(shape, 5, 2))]
    assert_equal(both_ways(module, x, terms), module(x))


@pytest.mark.parametrize("kind", [k for k in reference_layers.KINDS if "grouped" not in k])
def test_mixed_adapters_keep_their_order(kind):
    module, x = reference_layers.make(kind)
    shape = tuple(module.weight.shape)
    out, inputs = shape[:2]
    kronecker = LoKr((normal(2, 2, size=0.3),), (normal(out // 2, inputs // 2, *shape[2:], seed=1),), 0.5)
    glora = GLoRA(
        *(normal(*s, seed=i) for i, s in enumerate(((inputs, 2), (2, inputs), (out, 2), (2, prod(shape[1:]))))), 0.5
    )
    terms = [
        LiveTerm(0.7, lora(shape, 3, 1)),
        LiveTerm(1.0, dora(module.weight, 0, 2)),
        LiveTerm(0.3, lora(shape, 2, 3)),
        LiveTerm(0.8, dora(module.weight, 1, 4)),
        LiveTerm(0.5, loha(shape)),
        LiveTerm(1.3, kronecker),
        LiveTerm(0.6, glora),
        LiveTerm(0.9, OFT((normal(out // 4, 4, 4, seed=5),))),
        LiveTerm(-0.5, IA3(normal(inputs, seed=6), True)),
        LiveTerm(0.2, lora(shape, 4, 7)),
        LiveTerm(1.5, Diff(normal(out, seed=8)), is_bias=True),
    ]
    # The vectors that DoRA divides by are computed in float64 too; strengths before it are what rounds.
    assert_equal(both_ways(module, x, terms), module(x))


def swap(rows):
    return torch.cat(rows.chunk(2)[::-1])


def test_parts_of_a_weight():
    module, x = reference_layers.make("linear", inputs=12, outputs=24)
    third = lambda at: (0, 8 * at, 8)  # noqa: E731
    terms = [
        LiveTerm(0.7, lora((8, 12), 3, 1), third(0)),
        LiveTerm(0.6, lora((8, 12), 2, 2), third(2)),
        LiveTerm(0.5, lora((24, 12), 4, 3)),
        LiveTerm(0.4, lora((8, 12), 2, 4), third(1), swap),
        LiveTerm(0.3, lora((24, 6), 2, 5), (1, 3, 6)),
        LiveTerm(1.0, dora(module.weight[8:16], 1, 6), third(1)),
        LiveTerm(1.0, dora(swap(module.weight[16:]), 0, 7), third(2), swap),
        LiveTerm(0.2, lora((8, 12), 2, 8), third(0)),
        LiveTerm(1.0, Diff(normal(8)), third(1), swap, True),
    ]
    assert_equal(both_ways(module, x, terms), module(x))


def test_strengths_over_time_are_one_small_tensor():
    module, x = reference_layers.make("conv2d")
    shape = tuple(module.weight.shape)
    terms = [
        LiveTerm(0.7, lora(shape, 3, 1), group=0),
        LiveTerm(0.5, lora(shape, 2, 2), group=1),
        LiveTerm(0.9, OFT((normal(4, 4, 4, seed=5),)), group=1),
        LiveTerm(1.0, Diff(normal(16)), is_bias=True, group=2),
    ]
    for strengths in ((1.0, 1.0, 1.0), (0.5, -1.0, 0.0), (0.0, 2.0, 3.0)):
        assert_equal(both_ways(module, x, terms, strengths), module(x))
    gains = Gains()
    stack.build(terms, reference_layers.as_layer(module), gains, CPU, torch.float64)
    gains.complete(CPU)
    assert gains._values.numel() == 3 + 2 + 1 + 1


@pytest.mark.parametrize("timestep", [0.0, 1.0, 333.0, 500.0, 999.0, 1000.0])
@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv2d_grouped"])
def test_a_number_for_each_rank_column_at_each_step(kind, timestep):
    """Columns at a moment, strengths of groups and of samples multiply each other; neighbours and what stands behind see the same."""
    module, x = reference_layers.make(kind)
    shape = tuple(module.weight.shape)
    plain, first, second = lora(shape, 2, 1), lora(shape, 5, 2), lora(shape, 4, 3)
    vary = lambda adapter: reference_layers.Varying(adapter.up, adapter.down, None, adapter.scale)  # noqa: E731
    terms = [LiveTerm(0.7, plain), LiveTerm(0.5, vary(first), group=1), LiveTerm(-0.4, vary(second), group=0)]
    layer, gains = reference_layers.as_layer(module), Gains()
    steps = stack.build(terms, layer, gains, CPU, torch.float64)
    gains.complete(CPU)
    assert gains._values.numel() == 2 + 5 + 4 and len(steps) == 1
    strengths = torch.tensor([[0.5, 2.0], [-1.0, 1.0]])
    gains.set(strengths, 777.0)
    gains.set(strengths, timestep)
    found = stack.run(steps, layer, x, layer.base(x))
    for sample in range(2):
        weight = module.weight.clone()
        for coefficient, adapter, group in ((0.7, plain, 0), (0.5, first, 1), (-0.4, second, 0)):
            up, down = adapter.up.flatten(1), adapter.down.flatten(1)
            for column in range(adapter.rank):
                strength = coefficient * float(strengths[sample, group]) * adapter.scale
                if adapter is not plain:
                    strength *= column < int((1000 - timestep) / 1000 * (adapter.rank - 1)) + 1
                    strength *= 0.5 if column == 0 else 1
                weight += strength * torch.outer(up[:, column], down[column]).reshape(shape)
        one = x[sample : sample + 1]
        assert_equal(
            (found[sample : sample + 1], reference_layers.run(module, weight, module.bias, one)), layer.base(one)
        )


def test_columns_that_vary_stand_where_their_own_layer_is():
    """Gains of several layers lie in one tensor: another layer's, and other adapters' before them, keep theirs."""
    product = lora((16, 12), 3, 1)
    gains = Gains()
    first = gains.add([1.0, 2.0], 0)
    second = gains.add([0.5] * 4, [0, 1, 1, 1], [(range(1, 4), reference_layers.Varying(product.up, product.down))])
    gains.complete(CPU)
    gains.set(torch.tensor([3.0, 4.0]), 1000.0)
    assert first.values.tolist() == [3.0, 6.0]
    assert second.values.tolist() == [1.5, 1.0, 0.0, 0.0]


def test_a_dora_behind_an_adapter_that_varies():
    module, x = reference_layers.make("linear")
    shape = tuple(module.weight.shape)
    product = lora(shape, 5, 2)
    moving = reference_layers.Varying(product.up, product.down, None, product.scale)
    behind = LiveTerm(0.8, dora(module.weight, 0, 4))
    for timestep in (900.0, 100.0):
        now = LiveTerm(0.5, moving).now(2.0, timestep)
        columns = moving.columns_at(timestep).double()
        weight = module.weight + product.scale * (product.up * columns) @ product.down
        found, _ = both_ways(module, x, [now, behind])
        weight = weight + 0.8 * behind.adapter.delta(weight)
        assert_equal((found, reference_layers.run(module, weight, module.bias, x)), module(x))


def test_the_products_of_neighbours_are_one():
    module, _ = reference_layers.make("linear")
    shape = tuple(module.weight.shape)
    steps = stack.build(
        [LiveTerm(1.0, lora(shape, r, r)) for r in (1, 2, 3)],
        reference_layers.as_layer(module),
        Gains(),
        CPU,
        torch.float32,
    )
    (step,) = steps
    assert step.down.shape == (6, 12)
    assert [up.shape for _, _, up in step.parts] == [(16, 6)]


@pytest.mark.parametrize("kind", reference_layers.KINDS)
def test_products_that_are_more_than_the_weight_are_multiplied_out(kind):
    """Those of one strength alone; what varies, has rows of its own or stands behind a DoRA stays as it is."""
    module, x = reference_layers.make(kind)
    shape = tuple(module.weight.shape)
    weight = module.weight.detach().double()
    many = [LiveTerm(0.3 + 0.1 * n, lora(shape, 9, n)) for n in range(6)]
    moving = LiveTerm(0.7, lora(shape, 9, 20), group=1)
    terms = [*many, moving, LiveTerm(0.9, dora(weight, 0)), LiveTerm(0.2, lora(shape, 40, 30))]
    assert_equal(both_ways(module, x, terms[:7], (1.0, 0.4), fixed={0}), module(x))
    assert_equal(both_ways(module, x, terms, (1.0, 1.0), fixed={0}), module(x))
    layer = reference_layers.as_layer(module)

    def steps(fixed, terms=terms):
        ready = lambda term, adapter, earlier: adapter.prepared(weight, layer.groups)  # noqa: E731
        return [type(step).__name__ for step in stack.build(terms, layer, Gains(), CPU, torch.float64, ready, fixed)]

    assert steps({0}) == ["_Whole", "_Products", "Single", "_Whole"]
    assert steps({0, 1}) == ["_Whole", "Single", "_Whole"]
    assert steps(()) == ["_Products", "Single", "_Products"]
    assert steps({0}, [LiveTerm(1.0, lora(shape, 1, 0))]) == ["_Products"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_inputs_of_any_layout(dtype):
    """Channels last, outputs that are no contiguous memory, and a layer that runs in another precision than its model."""
    module, x = reference_layers.make("conv2d")
    terms = [LiveTerm(0.7, lora(tuple(module.weight.shape), 3, 1))]
    layer, gains = reference_layers.as_layer(module), Gains()
    steps = stack.build(terms, layer, gains, CPU, dtype)
    gains.complete(CPU)
    y, expected = layer.base(x), both_ways(module, x, terms)[1]
    for changed in (x.to(dtype), x.to(dtype, memory_format=torch.channels_last), x.float(), x):
        for start in (y, y.to(memory_format=torch.channels_last)):
            found = stack.run(steps, layer, changed, start.to(changed.dtype))
            assert found.dtype == changed.dtype
            assert (found - expected).norm() < 0.02 * expected.norm()


def test_the_size_of_the_factors():
    adapter = lora((16, 12), 4)
    assert stack.nbytes([LiveTerm(1.0, adapter)] * 2, torch.bfloat16) == 2 * 2 * (16 * 4 + 4 * 12)


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_factors_of_any_type_run_live_on_a_model_in_half(stored):
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(size, generator=generator).to(stored) for size in ((24, 4), (4, 16)))
    gains = Gains()
    layer = Layer(lambda x: torch.zeros(*x.shape[:-1], 24), (24, 16))
    steps = stack.build([LiveTerm(0.5, LoRA(up, down))], layer, gains, torch.device("cpu"), torch.float16)
    gains.complete(torch.device("cpu"))
    x = torch.randn(5, 16, generator=generator)
    found = stack.run(steps, layer, x.half(), torch.zeros(5, 24, dtype=torch.float16))
    meant = x.double() @ (0.5 * up.double() @ down.double()).T
    torch.testing.assert_close(found.double(), meant, rtol=5e-3, atol=2e-2)
