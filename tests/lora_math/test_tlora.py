"""T-LoRA against LyCORIS's own forward, which its own reader does not give back, and against the paper's formula."""

import lycoris.modules.tlora as lycoris
import pytest
import torch
from reference_layers import as_layer, error, make
from torch.nn import Linear

from strata.lora_math import stack
from strata.lora_math.adapters import LoRA, TLoRA, TLoRAFromWeight
from strata.lora_math.adapters.tlora import beginning, directions
from strata.lora_math.errors import StrataError
from strata.lora_math.reading import state_dict
from strata.lora_math.stack import Gains, LiveTerm

TIMESTEPS = (999.0, 800.0, 500.0, 200.0, 0.0)
CPU = torch.device("cpu")
RANK = 4


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """LyCORIS's singular vectors in float64, so that what is compared are the formulas, not how it rounds."""
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda weight, **options: svd(weight.double(), **options))


def train(kind, seed=7, drift=0.05, **options):
    """(LyCORIS's module, what it saves, the layer, the input, the layer's own output) after a training that went ``drift`` far."""
    module, x = make(kind, inputs=24, outputs=32)
    before = module(x)
    torch.manual_seed(seed)
    net = lycoris.TLoraModule("m", module, 1.0, RANK, 3.0, bypass_mode=True, **options)
    for parameter in net.parameters():
        parameter.data.add_(torch.randn_like(parameter) * drift * parameter.abs().mean())
    net.double()
    saved = {f"m.{key}": value.detach().clone() for key, value in net.custom_state_dict().items()}
    return net, saved, module, x, before


def by_lycoris(net, x, before, timestep, least=1, exponent=1.0):
    lycoris.set_timestep_mask(lycoris.compute_timestep_mask(int(timestep), 1000, RANK, least, exponent))
    try:
        return (before + net.bypass_forward_diff(x)).detach()
    finally:
        lycoris.clear_timestep_mask()


def only(saved, metadata=None):
    contents = state_dict.parse(saved, metadata)
    assert not contents.leftovers
    (entry,) = contents.entries
    return entry.adapter


def live(adapter, module, x, timestep, dtype=torch.float64):
    layer, gains = as_layer(module), Gains()
    steps = stack.build([LiveTerm(1.0, adapter)], layer, gains, CPU, dtype)
    gains.complete(CPU)
    gains.set(torch.ones(1), timestep)
    return stack.run(steps, layer, x, module(x).clone())


def begun(stored, module):
    assert type(stored) is TLoRAFromWeight and stored.varies
    return stored.begun(beginning(module.weight.flatten(1), stored))


@pytest.mark.parametrize("timestep", TIMESTEPS)
@pytest.mark.parametrize("slice", ["principal", "last", "middle"])
@pytest.mark.parametrize("kind", ["linear", "conv2d_1x1"])
def test_against_lycoris(kind, slice, timestep):
    net, saved, module, x, before = train(kind, sig_type=slice)
    stored = only(saved)
    assert directions(module.weight.flatten(1), stored).slice == slice
    adapter = begun(stored, module)
    expected = by_lycoris(net, x, before, timestep)
    assert error(live(adapter, module, x, timestep), expected, before) < 1e-6
    weight = module.weight + adapter.at(timestep).delta(module.weight)
    assert error(torch.func.functional_call(module, {"weight": weight}, (x,)), expected, before) < 1e-6


def test_more_inputs_than_outputs():
    """The singular vectors are then those of the other side."""
    module = Linear(40, 12).double().requires_grad_(False)
    x = torch.randn(3, 40, dtype=torch.float64)
    torch.manual_seed(1)
    net = lycoris.TLoraModule("m", module, 1.0, RANK, 3.0, bypass_mode=True, sig_type="last")
    for parameter in net.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    net.double()
    adapter = begun(only({f"m.{key}": value.detach() for key, value in net.custom_state_dict().items()}), module)
    for timestep in TIMESTEPS:
        expected = by_lycoris(net, x, module(x), timestep)
        assert error(live(adapter, module, x, timestep), expected, module(x)) < 1e-6


def test_untrained_it_changes_nothing():
    _, saved, module, x, before = train("linear", drift=0.0)
    for timestep in TIMESTEPS:
        change = live(begun(only(saved), module), module, x, timestep) - before
        assert change.norm() < 1e-6 * before.norm()


@pytest.mark.parametrize(("least", "exponent"), [(1, 1.0), (2, 1.0), (1, 2.0), (3, 2.0), (1, 0.5), (9, 0.5)])
def test_the_mask_is_the_trainers(least, exponent):
    _, saved, module, *_ = train("linear")
    header = {"ss_network_args": f'{{"algo": "tlora", "tlora_min_rank": "{least}", "tlora_alpha": {exponent}}}'}
    adapter = begun(only(saved, header), module)
    for timestep in range(0, 1001, 7):
        mask = lycoris.compute_timestep_mask(timestep, 1000, RANK, min(least, RANK), exponent)[0]
        assert torch.equal(adapter.columns_at(float(timestep)), mask.repeat(2))


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_the_papers_own_files(timestep):
    """Its forward, written from its formula: p(q(x) * l * m) - p0(q0(x) * l0 * m)."""
    make_ = lambda *shape: torch.randn(shape, dtype=torch.float64)  # noqa: E731
    torch.manual_seed(3)
    p0, q0, values0 = make_(32, RANK), make_(RANK, 24), make_(1, RANK)
    p, q, values = p0 + 0.1 * make_(32, RANK), q0 + 0.1 * make_(RANK, 24), values0 + 0.1 * make_(1, RANK)
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    tensors = {
        "p_layer.weight": p,
        "q_layer.weight": q,
        "lambda_layer": values,
        "base_p.weight": p0,
        "base_q.weight": q0,
        "base_lambda": values0,
    }
    (entry,) = state_dict.parse({f"{module}.{name}": tensor for name, tensor in tensors.items()}).entries
    assert entry.module == module.removesuffix("_lora") and type(entry.adapter) is TLoRA and entry.adapter.rank == RANK
    layer, x = make("linear", inputs=24, outputs=32)
    mask = lycoris.compute_timestep_mask(int(timestep), 1000, RANK, 1, 1.0)
    expected = layer(x) + ((x @ q.T) * values * mask) @ p.T - ((x @ q0.T) * values0 * mask) @ p0.T
    assert error(live(entry.adapter, layer, x, timestep), expected, layer(x)) < 1e-12


def test_in_half_precision_the_two_parts_do_not_drown_the_change():
    """Stored as p l q and p0 l0 q0 apart, bfloat16 would leave nothing of a small change."""
    module, x = make("linear", inputs=24, outputs=32)
    module.weight.mul_(30)
    net = lycoris.TLoraModule("m", module, 1.0, RANK, 3.0, bypass_mode=True)
    torch.manual_seed(2)
    for parameter in net.parameters():
        parameter.data.mul_(1 + 0.01 * torch.randn_like(parameter))
    saved = {f"m.{key}": value.detach() for key, value in net.custom_state_dict().items()}
    net.double()
    adapter = begun(only(saved), module)
    change = net.bypass_forward_diff(x).detach()
    up, down, scale = adapter.product()
    found = scale * ((x.bfloat16() @ down.bfloat16().T) @ up.bfloat16().T).double()
    apart = net.scale * (
        ((x @ net.q_layer.weight.T).bfloat16() * net.lambda_layer.bfloat16()) @ net.p_layer.weight.T.bfloat16()
        - ((x @ net.base_q.T).bfloat16() * net.base_lambda.bfloat16()) @ net.base_p.T.bfloat16()
    )
    assert (found - change).norm() < 0.02 * change.norm()
    assert (apart.detach().double() - change).norm() > 5 * (found - change).norm()


def test_another_model_is_refused():
    _, saved, module, *_ = train("linear")
    other = torch.randn(module.weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with pytest.raises(StrataError, match="not trained from this model's weights"):
        directions(other, only(saved))


def test_another_model_is_refused_whatever_the_rank():
    """Of 20 directions among 24, any 20 others share five sixths."""
    generator = torch.Generator().manual_seed(6)
    weight, trained = (torch.randn(32, 24, dtype=torch.float64, generator=generator) for _ in range(2))
    u, s, v = torch.linalg.svd(trained, full_matrices=False)
    stored = TLoRAFromWeight(u[:, :20], v[:20], s[:20])
    assert directions(trained, stored).slice == "principal"
    with pytest.raises(StrataError, match="not trained from this model's weights"):
        directions(weight, stored)


def test_a_random_beginning_is_refused():
    """``use_data_init = False``: nothing in the file or the model tells what it was."""
    _, saved, module, *_ = train("linear", use_data_init=False)
    with pytest.raises(StrataError, match="not trained from this model's weights"):
        directions(module.weight, only(saved))


def test_a_plain_file_is_never_masked():
    """The paper's code also trains plain LoRAs under its mask; they are used whole."""
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    (entry,) = state_dict.parse(
        {f"{module}.down.weight": torch.ones(4, 24), f"{module}.up.weight": torch.ones(32, 4)}
    ).entries
    assert type(entry.adapter) is LoRA and not entry.adapter.varies


@pytest.mark.parametrize("lost", ["q_layer.weight", "p_layer.weight", "lambda_layer"])
def test_a_part_that_is_missing_is_named(lost):
    _, saved, *_ = train("linear")
    del saved[f"m.{lost}"]
    contents = state_dict.parse(saved)
    assert not contents.entries
    assert any(f"without {lost.partition('.')[0]}" in why for why in contents.leftovers.values())


def test_factors_that_do_not_fit_are_refused():
    _, saved, *_ = train("linear")
    saved["m.lambda_layer"] = torch.ones(1, RANK + 1)
    contents = state_dict.parse(saved)
    assert not contents.entries and all("do not fit each other" in why for why in contents.leftovers.values())


@pytest.mark.parametrize("rank", [1, RANK - 1, RANK + 1])
def test_a_beginning_of_another_rank_is_refused(rank):
    _, saved, *_ = train("linear")
    for role, kept in (("p", lambda t: t[:, :1].repeat(1, rank)), ("q", lambda t: t[:1].repeat(rank, 1))):
        saved[f"m.base_{role}.weight"] = kept(saved[f"m.{role}_layer.weight"])
    saved["m.base_lambda"] = torch.ones(1, rank)
    contents = state_dict.parse(saved)
    assert not contents.entries and any("it began with factors" in why for why in contents.leftovers.values())


def test_with_dora_magnitudes_it_is_refused():
    _, saved, *_ = train("linear")
    saved["m.dora_scale"] = torch.ones(saved["m.p_layer.weight"].shape[0], 1)
    contents = state_dict.parse(saved)
    assert not contents.entries and any("with DoRA magnitudes" in why for why in contents.leftovers.values())
