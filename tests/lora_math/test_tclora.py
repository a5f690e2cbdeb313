"""TC-LoRA against its formula, written out in float64 from the names of its file."""

import math

import pytest
import reference_layers
import torch
from torch import Tensor

from strata.lora_math import stack
from strata.lora_math.adapters import LoRA, TCLoRA
from strata.lora_math.reading.state_dict import parse
from strata.lora_math.stack import Gains, LiveTerm

CPU, RANK, WAVES = torch.device("cpu"), 5, 16
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 10}


def tensors(out=16, inputs=12, seed=0, module="base_model.model.transformer_blocks.0.attn.to_q") -> dict[str, Tensor]:
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": draw(RANK, inputs),
        f"{module}.lora_B.weight": draw(out, RANK),
        f"{module}.lora_time_gamma.weight": draw(RANK, WAVES),
        f"{module}.lora_time_gamma.bias": draw(RANK),
        f"{module}.lora_time_beta.weight": draw(RANK, WAVES),
        f"{module}.lora_time_beta.bias": draw(RANK),
    }


def added(file: dict[str, Tensor], x: Tensor, timestep: float) -> Tensor:
    """What the trainer's own layer adds, scale 2."""
    down, up, g, g0, b, b0 = (tensor.double() for tensor in file.values())
    half = WAVES // 2
    angles = [timestep * 10000 ** (-at / half) for at in range(half)]
    waves = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=torch.float64)
    return 2.0 * ((x.double() @ down.T) * (g @ waves + g0) + (b @ waves + b0)) @ up.T


def adapter_of(file) -> TCLoRA:
    contents = parse(file, config=CONFIG)
    assert not contents.leftovers
    (entry,) = contents.entries
    assert type(entry.adapter) is TCLoRA
    assert set(entry.keys) == set(file)
    return entry.adapter


@pytest.mark.parametrize("timestep", [1000.0, 873.0, 500.0, 12.5, 0.0])
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_it_is_the_formula(timestep, strength):
    file = tensors()
    module, x = reference_layers.make("linear")
    module, x = module.float(), x.float()
    other = LoRA(torch.ones(16, 2), torch.ones(2, 12))
    gains = Gains()
    terms = [LiveTerm(0.25, other), LiveTerm(1.0, adapter_of(file), group=1)]
    steps = stack.build(terms, reference_layers.as_layer(module), gains, CPU, torch.float32)
    gains.complete(CPU)
    gains.set(torch.tensor([1.0, strength]), timestep)
    found = stack.run(steps, reference_layers.as_layer(module), x, module(x))
    expected = (
        module(x).double() + strength * added(file, x, timestep) + 0.25 * (x.double() @ torch.ones(12, 16).double() * 2)
    )
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_its_reach_is_known():
    adapter = adapter_of(tensors())
    for timestep in range(0, 1001, 50):
        assert adapter.at(float(timestep)).delta(torch.zeros(16, 12)).abs().max() <= adapter.reach
    assert adapter.reach <= adapter.reach_within(max(float(t.abs().max()) for t in tensors().values()))


@pytest.mark.parametrize("role", ["lora_A.weight", "lora_time_gamma.bias", "lora_time_beta.weight"])
def test_half_of_one_is_refused_by_name(role):
    """And never taken for a plain LoRA."""
    file = {key: value for key, value in tensors().items() if not key.endswith(role)}
    contents = parse(file, config=CONFIG)
    assert not contents.entries
    assert set(contents.leftovers) == set(file)
    assert all("a TC-LoRA with" in reason for reason in contents.leftovers.values())


def test_another_shape_is_refused():
    file = tensors()
    file = {key: value[:-1] if key.endswith("gamma.bias") else value for key, value in file.items()}
    assert all("do not fit it" in reason for reason in parse(file, config=CONFIG).leftovers.values())


def test_a_plain_file_stays_plain():
    file = {key: value for key, value in tensors().items() if "time" not in key}
    (entry,) = parse(file, config=CONFIG).entries
    assert type(entry.adapter) is LoRA
    alone = {key: value for key, value in file.items() if "lora_A" in key}
    assert list(parse(alone, config=CONFIG).leftovers.values()) == ["lora_down without lora_up"]
