"""Layers whose weight a model takes past their call: the live LoRA acts there all the same, or the run says that it cannot."""

from __future__ import annotations

import threading

import comfy.hooks
import comfy.ops
import pytest
import torch
from comfy.quant_ops import QuantizedTensor
from test_quantized import build, dequantized, plain_weights, stored
from torch import nn
from torch.nn import Linear

from strata.lora_math.errors import StrataError
from strata.nodes.comfy import live_run, patch
from strata.nodes.comfy.live import LiveLora, attach
from strata.nodes.comfy.live_reads import Watched, unwatch, watch
from strata.tests.nodes.helpers import adapter_makers, sampling


class Fused(nn.Sequential):
    """An MLP as ComfyUI 0.33 runs it in Wan: int8 takes the second layer's weight past its call, everything else calls it."""

    def forward(self, x):
        return comfy.ops.linear_input_act(self[2], self[0](x), "gelu_tanh")


def fused(model):
    for block in model.model.diffusion_model.double_blocks:
        for name in ("img_mlp", "txt_mlp"):
            setattr(block, name, Fused(*getattr(block, name)))
    return model


def second_layers(model) -> list[str]:
    return [key for key in model.model.state_dict() if key.endswith("_mlp.2.weight")]


@pytest.fixture(scope="module")
def int8():
    """FLUX with the second layers of its MLPs in int8, and the same numbers in float32."""
    weights = plain_weights()
    matrices = [key for key in weights if key.endswith("_mlp.2.weight")]
    model = fused(build(stored(weights, matrices, "int8_tensorwise"), quant_config={"mixed_ops": True}))
    assert isinstance(model.model.diffusion_model.double_blocks[0].img_mlp[2].weight, QuantizedTensor)
    yield model, fused(dequantized(model))
    sampling.unload()


def changes_of(exact, maker=adapter_makers.lora, biases: bool = False) -> dict:
    keys = second_layers(exact)
    found = {}
    for seed, key in enumerate(keys):
        generator = torch.Generator().manual_seed(seed)
        found[key] = [(4.0, maker(exact.model.state_dict()[key], generator))]
    return found


def live(model, changes, keyframes=None, **settings):
    clone = model.clone()
    attach(clone, LiveLora(changes, "test", keyframes, **settings))
    return clone


def patched(model, changes):
    clone = model.clone()
    patch.add(clone, changes)
    return clone


def sample(model, **options):
    return sampling.sample(model, "FLUX.1", **options)


def untouched(model) -> bool:
    modules = model.model.modules()
    return not any(
        isinstance(m._parameters, Watched) or m._forward_hooks or getattr(m, "weight_function", None) for m in modules
    )


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "LoHa", "LoKr", "OFT"])
def test_an_int8_layer_that_is_read_past_its_call(int8, kind):
    model, exact = int8
    changes = changes_of(exact, adapter_makers.MAKERS[kind])
    base, found = sample(exact), sample(live(model, changes))
    reference = sample(patched(exact, changes))
    assert (reference - base).norm() > 1e-3 * base.norm(), "the LoRA does next to nothing"
    assert sampling.distance(found, reference, reference - base) < 2e-3
    assert untouched(model)
    assert torch.equal(sample(model), sample(model))


def test_strength_over_time_there(int8):
    model, exact = int8
    group = comfy.hooks.HookKeyframeGroup()
    for strength, percent in ((1.0, 0.0), (0.0, 0.3), (-0.5, 0.6)):
        group.add(comfy.hooks.HookKeyframe(strength, percent))
    changes = changes_of(exact)
    reference = sample(live(exact, changes, group), steps=5)
    base, constant = sample(exact, steps=5), sample(live(exact, changes), steps=5)
    found = sample(live(model, changes, group), steps=5)
    assert sampling.distance(found, reference, reference - base) < 2e-3
    assert sampling.distance(constant, reference, reference - base) > 0.1


def test_controlnet_outputs_are_there_again_for_the_call_that_is_made_anew(int8, monkeypatch):
    """A model takes them out of their lists one by one."""
    model, exact = int8
    changes, seen = changes_of(exact), []
    forward = model.model.diffusion_model.forward

    def spy(*args, **kwargs):
        seen.append([len(kwargs["control"]["output"]), kwargs["control"]["output"].pop()])
        return forward(*args, **{**kwargs, "control": None})

    monkeypatch.setattr(model.model.diffusion_model, "forward", spy)
    give = lambda module, args, kwargs: (args, {**kwargs, "control": {"output": ["a", "b"]}})  # noqa: E731
    handle = model.model.diffusion_model.register_forward_pre_hook(give, with_kwargs=True)
    try:
        sample(live(model, changes), steps=1, cfg=1.0)
    finally:
        handle.remove()
    assert seen == [[2, "b"], [2, "b"]]


class PastEverything(nn.Module):
    """Runs a layer's weight as it lies there."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


class NeverRuns(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x.new_zeros(*x.shape[:-1], self.layer.out_features)


@pytest.fixture
def flux():
    model = sampling.MODELS["FLUX.1"]()
    yield model
    sampling.unload()


def around(model, wrapper):
    block = model.model.diffusion_model.single_blocks[0]
    block.linear2 = wrapper(block.linear2)
    key = "diffusion_model.single_blocks.0.linear2.layer.weight"
    return {key: [(1.0, adapter_makers.lora(block.linear2.layer.weight, torch.Generator().manual_seed(0)))]}


def test_a_weight_that_is_run_as_it_lies_there_stops_the_run(flux):
    changes = around(flux, PastEverything)
    with pytest.raises(StrataError, match=r"single_blocks\.0\.linear2\.layer.*apply = patch"):
        sample(live(flux, changes))
    assert untouched(flux)
    assert (sample(patched(flux, changes)) - sample(flux)).norm() > 0


def test_a_layer_that_never_runs_is_named_on_its_node(flux, caplog, monkeypatch):
    told = []
    monkeypatch.setattr(live_run, "tell", lambda node, text: told.append((node, text)))
    base = sample(flux)
    changes = around(flux, NeverRuns)
    base = sample(flux)
    assert torch.equal(sample(live(flux, changes, file="a.safetensors", node="7:3")), base)
    ((node, text),) = told
    assert node == "7:3"
    assert text.startswith("a.safetensors: 1 of 1 layers with this LoRA did not run")
    assert "single_blocks.0.linear2.layer" in text


def test_no_call_is_made_anew_where_every_layer_is_called(flux):
    calls = []
    handle = flux.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    forward, runs = flux.model.diffusion_model.forward, []
    flux.model.diffusion_model.forward = lambda *a, **k: runs.append(1) or forward(*a, **k)
    try:
        sample(live(flux, adapter_makers.everywhere(flux, adapter_makers.lora)), steps=2, cfg=1.0)
    finally:
        handle.remove()
        del flux.model.diffusion_model.forward
    assert len(runs) == len(calls) == 2


def test_reads_are_noticed_by_thread_and_for_as_long_as_someone_watches():
    layer = Linear(2, 2)
    plain = layer._parameters
    first, second = watch(layer), watch(layer)
    assert first is second
    thread = threading.Thread(target=lambda: layer.weight)
    thread.start()
    thread.join()
    assert not first.was_read()
    assert layer.weight is plain["weight"]
    assert first.was_read()
    first.forget()
    assert not first.was_read()
    layer.weight = nn.Parameter(torch.ones(2, 2))
    unwatch(layer)
    assert layer._parameters is first
    unwatch(layer)
    assert type(layer._parameters) is dict
    assert torch.equal(layer.weight, torch.ones(2, 2))
