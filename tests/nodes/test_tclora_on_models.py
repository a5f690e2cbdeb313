"""TC-LoRA files on ComfyUI's FLUX, against a model whose layers add what the trainer's own layers do at every step."""

from __future__ import annotations

import json
import math

import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.nodes.comfy.live_layers import layers_of
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.save import StrataLoraSave
from strata.tests.nodes.helpers import sampling
from strata.tests.nodes.test_live_time import assert_same, sample

RANK, ALPHA, WAVES, BLOCKS = 4, 8, 32, 2


@pytest.fixture(scope="module")
def model():
    yield sampling.MODELS["FLUX.1"]()
    sampling.unload()


def layers(model):
    """(the file's name of a layer, ComfyUI's, the third of its rows): whole ones and thirds of one."""
    for block in range(BLOCKS):
        ours, theirs = f"diffusion_model.double_blocks.{block}", f"transformer_blocks.{block}"
        for at, name in enumerate(("to_q", "to_k", "to_v")):
            yield f"{theirs}.attn.{name}", f"{ours}.img_attn.qkv", at
        yield f"{theirs}.attn.to_out.0", f"{ours}.img_attn.proj", None
        yield f"{theirs}.ff_context.net.0.proj", f"{ours}.txt_mlp.0", None


@pytest.fixture
def saved(model, lora_folder):
    """(the file's tensors, ComfyUI's layer -> [(the third of its rows, the six tensors)])"""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    modules, tensors, wanted = layers_of(model.model), {}, {}
    for name, path, third in layers(model):
        out, inputs = modules[path].weight.shape
        out = out if third is None else out // 3
        six = draw(RANK, inputs), 0.3 * draw(out, RANK), draw(RANK, WAVES), draw(RANK), draw(RANK, WAVES), draw(RANK)
        roles = (
            "lora_A.weight",
            "lora_B.weight",
            *(f"lora_time_{n}.{p}" for n in ("gamma", "beta") for p in ("weight", "bias")),
        )
        tensors |= {f"base_model.model.{name}.{role}": tensor for role, tensor in zip(roles, six, strict=True)}
        wanted.setdefault(path, []).append((third, six))
    lora_folder.save("timed/tc.safetensors", tensors)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q"]}
    (lora_folder.path / "timed" / "adapter_config.json").write_text(json.dumps(config))
    return tensors, wanted


def reference(model, wanted, strength, **settings):
    """The timestep is what the model itself is called with."""
    modules, now, handles = layers_of(model.model), {}, []

    def watch(module, args, kwargs):
        now["t"] = 1000 * float(args[1].max())

    def hook(path):
        def add(module, args, y):
            half = WAVES // 2
            angles = [now["t"] * math.exp(-math.log(10000) * at / half) for at in range(half)]
            waves = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=torch.float64)
            y = y.clone()
            for third, (down, up, g, g0, b, b0) in wanted[path]:
                down, up, g, g0, b, b0 = (each.double() for each in (down, up, g, g0, b, b0))
                more = ((args[0].double() @ down.T) * (g @ waves + g0) + b @ waves + b0) @ up.T
                rows = slice(None) if third is None else slice(third * len(up), (third + 1) * len(up))
                y[..., rows] += (strength * ALPHA / RANK * more).to(y.dtype)
            return y

        return add

    handles.append(model.model.diffusion_model.register_forward_pre_hook(watch, with_kwargs=True))
    handles += [modules[path].register_forward_hook(hook(path)) for path in wanted]
    try:
        return sample(model, "FLUX.1", **settings)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("apply", ["auto", "live", "patch"])
def test_a_sampling_is_the_trainers_forward(model, saved, apply):
    _, wanted = saved
    loaded = StrataLoraLoader.execute("timed/tc.safetensors", 0.5, model=model, apply=apply).result
    assert "TC-LoRA: each rank column is multiplied and added to as the timestep says" in loaded[3]
    assert "TC-LoRA runs" in loaded[3]
    expected = reference(model, wanted, 0.5)
    assert_same(sample(loaded[0], "FLUX.1"), expected, sample(model, "FLUX.1"))


def test_a_white_mask_is_none_and_a_black_one_no_lora(model, saved):
    _, wanted = saved
    plain = sample(model, "FLUX.1")
    masked = [
        StrataLoraLoader.execute("timed/tc.safetensors", 0.5, model=model, mask=fill(8, 8)).result[0]
        for fill in (torch.ones, torch.zeros)
    ]
    assert_same(sample(masked[0], "FLUX.1"), reference(model, wanted, 0.5), plain)
    assert torch.allclose(sample(masked[1], "FLUX.1"), plain, atol=1e-6)


def test_no_file_can_hold_it(model, saved, output):
    with pytest.raises(StrataError, match="TC-LoRA, which is another LoRA at each step"):
        StrataLoraSave.execute(lora_stack=[("timed/tc.safetensors", 1.0, 1.0)], model=model, filename_prefix="x")
