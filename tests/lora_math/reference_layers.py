"""Layers to try adapters on, and what an adapter of ours makes of them: the layer's output by both ways of applying it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Conv1d, Conv2d, Conv3d, Linear

from strata.lora_math.adapters import LoRA
from strata.lora_math.adapters.base import register
from strata.lora_math.layer import Layer
from strata.lora_math.reading.state_dict import StateDict

KINDS = ("linear", "conv1d", "conv2d", "conv2d_1x1", "conv2d_strided", "conv2d_grouped", "conv3d")


def make(kind: str, inputs: int = 12, outputs: int = 16, bias: bool = True) -> tuple[nn.Module, Tensor]:
    """(layer in float64, input) of one kind, the same on every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, kind)))
        module = {
            "linear": lambda: Linear(inputs, outputs, bias=bias),
            "conv1d": lambda: Conv1d(inputs, outputs, 3, stride=2, padding=1, bias=bias),
            "conv2d": lambda: Conv2d(inputs, outputs, 3, padding=1, bias=bias),
            "conv2d_1x1": lambda: Conv2d(inputs, outputs, 1, bias=bias),
            "conv2d_strided": lambda: Conv2d(
                inputs, outputs, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=bias
            ),
            "conv2d_grouped": lambda: Conv2d(inputs, outputs, 3, padding=1, groups=4, bias=bias),
            "conv3d": lambda: Conv3d(inputs, outputs, (1, 3, 2), padding=(0, 1, 1), bias=bias),
        }[kind]()
        space = {"linear": (2, 5), "conv1d": (9,), "conv3d": (2, 4, 3)}.get(kind, (5, 4))
        shape = (*space, inputs) if kind == "linear" else (2, inputs, *space)
        return module.double().requires_grad_(False), torch.randn(shape, dtype=torch.float64)


def as_layer(module: nn.Module) -> Layer:
    """Our description of a torch layer."""
    shape = tuple(module.weight.shape)
    base = type(module).forward.__get__(module)  # past whatever a trainer has put in the instance's place
    if isinstance(module, nn.Linear):
        return Layer(base, shape, module.bias)
    return Layer(base, shape, module.bias, module.stride, module.padding, module.dilation, module.groups)


def run(module: nn.Module, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """The layer's output with another weight and bias."""
    return torch.func.functional_call(module, {"weight": weight} | ({} if bias is None else {"bias": bias}), (x,))


def by_weight(contents: StateDict, module: nn.Module, x: Tensor, strength: float = 1.0) -> Tensor:
    """The layer's output with every entry's delta added to its parameter, in order."""
    weight, bias = module.weight.clone(), None if module.bias is None else module.bias.clone()
    for entry in contents.entries:
        target = weight if entry.parameter == "weight" else bias
        if target is None:
            assert entry.optional
            continue
        assert entry.adapter.mismatch(tuple(target.shape)) is None
        target += entry.adapter.delta(target, strength)
    return run(module, weight, bias, x)


def by_forward(contents: StateDict, module: nn.Module, x: Tensor, strength: float | Tensor = 1.0) -> Tensor | None:
    """The layer's output with the forward form of its one weight entry; biases are patched, as they have no forward form.

    None where the adapter says that it has no forward form for this layer.
    """
    (adapter,) = [entry.adapter for entry in contents.entries if entry.parameter == "weight"]
    bias = module.bias
    for entry in contents.entries:
        if entry.parameter == "bias" and bias is not None:
            bias = bias + entry.adapter.delta(bias, float(strength))
    layer = as_layer(with_bias(module, bias))
    ready = adapter.prepared(module.weight, layer.groups)
    return None if ready is None else ready.forward(layer, x, layer.base(x), strength)


def with_bias(module: nn.Module, bias: Tensor | None) -> nn.Module:
    """The same layer over another bias."""
    twin = copy.copy(module)
    twin._parameters = dict(module._parameters) | {
        "bias": None if bias is None else nn.Parameter(bias, requires_grad=False)
    }
    return twin


def error(ours: Tensor, theirs: Tensor, base: Tensor) -> float:
    """Distance of two changes of the same output, relative to the trainer's change."""
    change = torch.linalg.vector_norm((theirs - base).double())
    assert change > 1e-3 * torch.linalg.vector_norm(base.double())  # a trainer that changes nothing proves nothing
    return float((torch.linalg.vector_norm((ours - theirs).double()) / change).detach())


@register
@dataclass(frozen=True, eq=False)
class Varying(LoRA):
    """A LoRA that has fewer rank columns the noisier the picture is, and the first one half: the simplest that varies by itself."""

    name = "varying"
    varies = True

    def columns_at(self, timestep: float) -> Tensor:
        here = torch.arange(self.rank) < ranks_at(timestep, self.rank)
        return here.float() * torch.tensor([0.5, *[1.0] * (self.rank - 1)])

    def at(self, timestep: float) -> LoRA:
        up = self.up * self.columns_at(timestep).to(self.up.dtype).reshape(1, -1, *[1] * (self.up.ndim - 2))
        return LoRA(up, self.down, self.mid, self.scale)


def ranks_at(timestep: float, rank: int) -> int:
    return int((1000 - timestep) / 1000 * (rank - 1)) + 1
