"""Live and patched LoRAs give the same latents from ComfyUI's own sampler, on every architecture and for every adapter."""

from __future__ import annotations

import comfy.hooks
import comfy.sd
import comfy.supported_models
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch

from strata.lora_math.adapters import Diff, DoRA, SetWeight
from strata.nodes.comfy import patch
from strata.nodes.comfy.live import LiveLora, attach
from strata.nodes.comfy.live_layers import split
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import adapter_makers, lora_makers, sampling, small_models

LATENT, CHANGE = 1e-4, 2e-3  # how far apart, relative to the latent and to what the LoRA changes in it


def load(model, name, strength=1.0, **settings):
    return StrataLoraLoader.execute(name, strength, 0.0, model=model, **settings).result


def with_patches(model, *loras):
    clone = model.clone()
    for changes in loras:
        patch.add(clone, changes)
    return clone


def with_live(model, *loras, all_of_it: bool = True):
    """Whatever cannot be live is patched."""
    clone = model.clone()
    for number, changes in enumerate(loras):
        ours, rest, _ = split(model, changes)
        assert ours
        assert not (all_of_it and rest)
        attach(clone, LiveLora(ours, str(number)))
        patch.add(clone, rest)
    return clone


def assert_same(live, patched, base):
    change = (patched - base).norm()
    assert change > 1e-4 * base.norm(), "the LoRA does next to nothing: the test would prove nothing"
    assert (live - patched).norm() < LATENT * patched.norm()
    assert (live - patched).norm() < CHANGE * change


@pytest.fixture(scope="module")
def models():
    """Each model once, with what it samples without a LoRA."""
    yield from sampling.each_once(lambda model, family: (model, sampling.sample(model, family)))


@pytest.mark.parametrize("family", sampling.MODELS)
def test_every_architecture(lora_folder, models, family):
    model, base = models(family)
    names = lora_makers.unet_names(model, "diffusion_model.")
    tensors = lora_makers.kohya(names, lora_makers.shapes(model.model), alpha=16.0, dtype=torch.float32)
    name = lora_folder.save("a.safetensors", tensors)
    patched, live = load(model, name, 0.8)[0], load(model, name, 0.8, apply="live")
    assert_same(sampling.sample(live[0], family), sampling.sample(patched, family), base)
    assert torch.equal(sampling.sample(model, family), base)
    assert "beside the model" in live[3]


@pytest.mark.parametrize("kind", adapter_makers.MAKERS)
@pytest.mark.parametrize("family", ["SD1.5", "FLUX.1"])
def test_every_adapter(models, family, kind):
    model, base = models(family)
    changes = adapter_makers.everywhere(model, adapter_makers.MAKERS[kind])
    only_linear = kind == "OFT on inputs" and family == "SD1.5"  # turned patches of a convolution overlap
    live = with_live(model, changes, all_of_it=not only_linear)
    assert_same(sampling.sample(live, family), sampling.sample(with_patches(model, changes), family), base)
    assert torch.equal(sampling.sample(model, family), base)


def test_a_replaced_bias_is_patched(models):
    """Beside a layer there is a sum only: what takes a bias's place is no such."""
    model, base = models("FLUX.1")
    shapes = {key: value.shape for key, value in model.model.state_dict().items()}
    biases = [key for key in shapes if key.endswith("_mod.lin.bias")]
    assert biases
    replaced = {key: [(0.7, SetWeight(0.5 * torch.randn(shapes[key], generator=_seeded(3))))] for key in biases}
    added = {key: [(0.7, Diff(0.5 * torch.randn(shapes[key], generator=_seeded(4))))] for key in biases[1:]}
    changes = {key: [*replaced.get(key, ()), *added.get(key, ())] for key in biases}
    assert split(model, changes) == ({}, changes, {"replaced biases": biases})
    lora = adapter_makers.everywhere(model, adapter_makers.lora)
    live = with_live(model, {**lora, **changes}, all_of_it=False)
    assert_same(sampling.sample(live, "FLUX.1"), sampling.sample(with_patches(model, lora, changes), "FLUX.1"), base)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_chained_adapters_keep_their_order(models):
    """DoRA's norms are those of the weight after the LoRA before it, in both ways; GLoRA runs on what both left."""
    model, base = models("FLUX.1")
    lora, dora, glora, again = (
        adapter_makers.everywhere(model, maker, seed)
        for seed, maker in enumerate(
            (adapter_makers.lora, lambda w, g: adapter_makers.dora(w, g, 1), adapter_makers.glora, adapter_makers.lora)
        )
    )
    patched = sampling.sample(with_patches(model, lora, dora, glora, again), "FLUX.1")
    assert_same(sampling.sample(with_live(model, lora, dora, glora, again), "FLUX.1"), patched, base)
    other = sampling.sample(with_live(model, dora, lora, glora, again), "FLUX.1")
    assert (other - patched).norm() > 10 * CHANGE * (patched - base).norm(), "the order would not matter"


def test_a_dora_over_a_patched_model(models):
    model, base = models("FLUX.1")
    lora = adapter_makers.everywhere(model, adapter_makers.lora)
    dora = adapter_makers.everywhere(model, adapter_makers.dora, 1)
    patched = sampling.sample(with_patches(model, lora, dora), "FLUX.1")
    live = with_live(with_patches(model, lora), dora)
    for _ in range(2):  # not loaded with its patches yet, and loaded
        assert_same(sampling.sample(live, "FLUX.1"), patched, base)
    assert (sampling.sample(with_live(model, dora), "FLUX.1") - patched).norm() > CHANGE * (patched - base).norm()


@pytest.mark.parametrize("second", ["patch", "live"])
@pytest.mark.parametrize("first", ["patch", "live"])
def test_slices_and_swapped_rows(lora_folder, models, first, second):
    """diffusers' names on FLUX: thirds of qkv, quarters of linear1, and norm_out with scale and shift swapped; kohya's on top."""
    model, base = models("FLUX.1")
    shapes = lora_makers.shapes(model.model)
    names = lora_makers.unet_names(model, "transformer.")
    assert any(len(key) == 2 for key in names.values())
    assert any(len(key) == 3 for key in names.values())
    thirds = lora_folder.save("thirds.safetensors", lora_makers.kohya(names, shapes, alpha=16.0, dtype=torch.float32))
    whole = lora_folder.save("whole.safetensors", lora_makers.full_lora(model, alpha=16.0, dtype=torch.float32, seed=9))
    one = lambda apply: load(model, thirds, 0.8, apply=apply)[0]  # noqa: E731
    both = lambda a, b: load(one(a), whole, -0.5, apply=b)[0]  # noqa: E731
    patched = sampling.sample(both("patch", "patch"), "FLUX.1")
    assert_same(sampling.sample(both(first, second), "FLUX.1"), patched, base)
    assert (sampling.sample(one(first), "FLUX.1") - patched).norm() > CHANGE * (patched - base).norm()


@pytest.mark.parametrize("kind", ["LoRA", "LoHa of high rank", "LoKr"])
@pytest.mark.parametrize("axis", [0, 1])
def test_parts_of_a_weight(models, kind, axis):
    model, base = models("FLUX.1")
    changes = {}
    for key, weight in model.model.state_dict().items():
        if key.endswith("linear2.weight"):
            start, length = weight.shape[axis] // 4, weight.shape[axis] // 2
            part = weight.narrow(axis, start, length)
            adapter = adapter_makers.MAKERS[kind](part, torch.Generator().manual_seed(1))
            changes[(key, (axis, start, length))] = [(8.0, adapter)]
    patched = sampling.sample(with_patches(model, changes), "FLUX.1")
    assert_same(sampling.sample(with_live(model, changes), "FLUX.1"), patched, base)


@pytest.mark.parametrize("kind", ["DoRA", "GLoRA", "OFT", "IA3 on inputs", "BOFT"])
def test_parts_of_the_rows_for_adapters_that_need_the_weight(models, kind):
    model, base = models("FLUX.1")
    swap = lambda rows: torch.cat(rows.chunk(2)[::-1])  # noqa: E731
    changes = {}
    for key, weight in model.model.state_dict().items():
        if "double_blocks" in key and key.endswith("qkv.weight"):
            third = len(weight) // 3
            for at, rows in ((0, ()), (2, (swap,))):
                part = weight.narrow(0, at * third, third)
                adapter = adapter_makers.MAKERS[kind](swap(part) if rows else part, torch.Generator().manual_seed(at))
                changes[(key, (0, at * third, third), *rows)] = [(4.0, adapter)]
    patched = sampling.sample(with_patches(model, changes), "FLUX.1")
    assert_same(sampling.sample(with_live(model, changes), "FLUX.1"), patched, base)


def test_biases(models):
    model, base = models("SD1.5")
    generator = torch.Generator().manual_seed(4)
    changes = adapter_makers.everywhere(model, adapter_makers.ia3)
    norms = {}
    for key, weight in model.model.state_dict().items():
        if key.endswith(".bias"):
            is_layer = model.model.state_dict()[key.replace(".bias", ".weight")].ndim > 1
            (changes if is_layer else norms)[key] = [(1.0, Diff(torch.randn(weight.shape, generator=generator) * 0.02))]
    assert norms
    patched = sampling.sample(with_patches(model, changes, norms), "SD1.5")
    live = with_live(model, changes | norms, all_of_it=False)
    assert live.patches.keys() == norms.keys()
    assert_same(sampling.sample(live, "SD1.5"), patched, base)


def test_a_batch_with_several_prompts(models):
    model, _ = models("SD1.5")
    changes = adapter_makers.everywhere(model, adapter_makers.lora)
    areas = [*sampling.prompt("SD1.5", 5), *sampling.prompt("SD1.5", 6, area=(4, 4, 2, 2), strength=0.7)]
    run = lambda m: sampling.sample(m, "SD1.5", positive=areas, cfg=5.0)  # noqa: E731
    assert_same(run(with_live(model, changes)), run(with_patches(model, changes)), run(model))


def test_conditioning_hooks_on_top(lora_folder, models):
    """ComfyUI's own hooks change the weights under the live LoRA during the run, for one of the two prompts."""
    model, _ = models("SD1.5")
    changes = adapter_makers.everywhere(model, adapter_makers.lora)
    hooked = lora_makers.full_lora(model, alpha=16.0, dtype=torch.float32, seed=8)
    positive = sampling.prompt("SD1.5", 1, hooks=comfy.hooks.create_hook_lora(hooked, 0.7, 0.0))
    run = lambda m: sampling.sample(m, "SD1.5", positive=positive)  # noqa: E731
    patched = run(with_patches(model, changes))
    assert_same(run(with_live(model, changes)), patched, run(model))
    assert (sampling.sample(with_live(model, changes), "SD1.5") - patched).norm() > CHANGE * patched.norm()


def keyframes(*points: tuple[float, float]) -> comfy.hooks.HookKeyframeGroup:
    group = comfy.hooks.HookKeyframeGroup()
    for percent, strength in points:
        group.add(comfy.hooks.HookKeyframe(strength, percent))
    return group


@pytest.mark.parametrize("points", [((0.0, 1.0), (0.4, 0.2), (0.7, -0.5)), ((0.3, 0.0), (0.6, 1.0)), ()], ids=str)
@pytest.mark.parametrize("apply", ["patch", "live"])
def test_strength_over_time_is_that_of_core_hooks(lora_folder, models, points, apply):
    model, _ = models("SD1.5")
    tensors = lora_makers.full_lora(model, alpha=16.0, dtype=torch.float32)
    name = lora_folder.save("a.safetensors", tensors)
    hooks = comfy.hooks.create_hook_lora(tensors, 0.8, 0.0)
    hooks.set_keyframes_on_hooks(keyframes(*points))
    hooked = {side: sampling.prompt("SD1.5", seed, hooks=hooks) for seed, side in ((1, "positive"), (2, "negative"))}
    group = keyframes(*points)
    live = load(model, name, 0.8, apply=apply, keyframes=group)
    for _ in range(2):
        ours = sampling.sample(live[0], "SD1.5", steps=5)
        core = sampling.sample(model, "SD1.5", steps=5, **hooked)
        assert_same(ours, core, sampling.sample(model, "SD1.5", steps=5))
    assert "follows the keyframes" in live[3]
    constant = sampling.sample(load(model, name, 0.8)[0], "SD1.5", steps=5)
    assert bool(points) == bool(
        (ours - constant).norm() > CHANGE * (core - sampling.sample(model, "SD1.5", steps=5)).norm()
    )


def test_two_loaders_each_with_its_own_keyframes(lora_folder, models):
    """At the first of two steps only one LoRA acts, at the second only the other."""
    model, base = models("FLUX.1")
    files = [
        lora_folder.save(
            f"{seed}.safetensors", lora_makers.full_lora(model, alpha=16.0, dtype=torch.float32, seed=seed)
        )
        for seed in (1, 2)
    ]
    early, late = keyframes((0.0, 1.0), (0.5, 0.0)), keyframes((0.0, 0.0), (0.5, 1.0))
    both = load(load(model, files[0], keyframes=early)[0], files[1], keyframes=late)[0]
    swapped = load(load(model, files[1], keyframes=late)[0], files[0], keyframes=early)[0]
    a, b = sampling.sample(both, "FLUX.1", steps=4), sampling.sample(swapped, "FLUX.1", steps=4)
    assert (a - b).norm() < LATENT * a.norm()
    constant = load(load(model, files[0])[0], files[1])[0]
    assert (sampling.sample(constant, "FLUX.1", steps=4) - a).norm() > 100 * LATENT * a.norm()
    assert torch.equal(sampling.sample(model, "FLUX.1"), base)


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.bfloat16, torch.float16], ids=str)
def test_live_loses_nothing_to_the_rounding_of_stored_weights(lora_folder, stored):
    """Against the same weights held in float32 with the LoRA added exactly: patching rounds the sum to what is stored."""
    model = small_models.build(comfy.supported_models.SD15, small_models.SD15, stored, cast=torch.float32)
    exact = small_models.sd15()
    exact.model.load_state_dict({k: v.float() for k, v in model.model.state_dict().items()})
    tensors = lora_makers.full_lora(exact, alpha=1.0, dtype=torch.float32)
    name = lora_folder.save("a.safetensors", tensors)
    reference, base = sampling.sample(load(exact, name)[0], "SD1.5"), sampling.sample(exact, "SD1.5")
    core = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)[0]
    errors = {
        "live": sampling.distance(
            sampling.sample(load(model, name, apply="live")[0], "SD1.5"), reference, reference - base
        ),
        "core": sampling.distance(sampling.sample(core, "SD1.5"), reference, reference - base),
    }
    assert errors["live"] < CHANGE
    assert errors["core"] > 5 * errors["live"], errors


def test_custom_samplers(models):
    """SamplerCustomAdvanced with each of ComfyUI's guiders."""
    model, _ = models("SD1.5")
    changes = adapter_makers.everywhere(model, adapter_makers.lora)
    positive, middle, negative = (sampling.prompt("SD1.5", seed) for seed in (1, 4, 2))
    guiders = {
        "basic": lambda m: custom.BasicGuider.execute(m, positive).result[0],
        "cfg": lambda m: custom.CFGGuider.execute(m, positive, negative, 4.0).result[0],
        "dual cfg": lambda m: custom.DualCFGGuider.execute(m, positive, middle, negative, 3.0, 2.0, "nested").result[0],
    }
    for make in guiders.values():
        a, b, base = (
            sampling.advanced(make(m), "SD1.5")
            for m in (with_live(model, changes), with_patches(model, changes), model)
        )
        assert_same(a, b, base)


def test_the_negative_model_of_a_dual_guider(models):
    """Its model runs under the other one's guider: its LoRA has to be there all the same, and gone afterwards."""
    positive, negative = sampling.prompt("SD1.5", 1), sampling.prompt("SD1.5", 2)
    main, other = sampling.MODELS["SD1.5"](), sampling.MODELS["SD1.5"]()
    changes = adapter_makers.everywhere(other, adapter_makers.lora)
    guider = lambda m: custom.DualModelGuider.execute(main, positive, 4.0, m, negative).result[0]  # noqa: E731
    run = lambda m: sampling.advanced(guider(m), "SD1.5")  # noqa: E731
    base = run(other)
    live = with_live(other, changes)
    for _ in range(2):
        assert_same(run(live), run(with_patches(other, changes)), base)
    assert torch.equal(run(other), base)
    assert not live.callbacks.get("on_cleanup")


def test_norms_of_a_dora_are_read_once(models):
    """A moved slider reads no weight again; a changed model under the LoRA does."""
    from strata.nodes.comfy import live_hooks

    model, _ = models("FLUX.1")
    changes = adapter_makers.everywhere(model, adapter_makers.dora)
    read = lambda: [live_hooks._read[a][1] for ((_, a),) in changes.values()]  # noqa: E731
    sampling.sample(with_live(model, changes), "FLUX.1")
    before = read()
    sampling.sample(with_live(model, {k: [(0.3, a)] for k, ((_, a),) in changes.items()}), "FLUX.1")
    assert all(now is then for now, then in zip(read(), before, strict=True))
    sampling.sample(
        with_live(with_patches(model, adapter_makers.everywhere(model, adapter_makers.lora)), changes), "FLUX.1"
    )
    assert not any(now is then for now, then in zip(read(), before, strict=True))
    assert all(isinstance(a, DoRA) for ((_, a),) in changes.values())
