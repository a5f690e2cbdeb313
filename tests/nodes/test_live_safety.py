"""What a live LoRA may never do: load or unload anything, leave something behind, reach another model, or be silently absent."""

from __future__ import annotations

import gc
import resource
import threading

import comfy.hooks
import comfy.model_management
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_torch_compile as compiling
import pytest
import torch
from torch import nn
from torch.nn import ConvTranspose2d, Embedding, LayerNorm, Linear

from strata.lora_math.adapters import Diff, SetWeight
from strata.lora_math.errors import StrataError
from strata.nodes.comfy import patch
from strata.nodes.comfy.live import LiveLora, attach, is_compiled
from strata.nodes.comfy.live_layers import layers_of, split
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import adapter_makers, lora_makers, sampling


@pytest.fixture(scope="module")
def flux():
    yield sampling.MODELS["FLUX.1"]()
    sampling.unload()


@pytest.fixture(scope="module")
def base(flux):
    return sampling.sample(flux, "FLUX.1")


@pytest.fixture(scope="module")
def changes(flux):
    return adapter_makers.everywhere(flux, adapter_makers.lora)


def live(model, changes, strength=1.0, keyframes=None):
    clone = model.clone()
    scaled = {key: [(strength * c, adapter) for c, adapter in terms] for key, terms in changes.items()}
    attach(clone, LiveLora(scaled, f"test at {strength}", keyframes))
    return clone


def patched(model, changes):
    clone = model.clone()
    patch.add(clone, changes)
    return clone


def hooks_on(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


def weights(model) -> dict:
    return {key: value.clone() for key, value in model.model.state_dict().items()}


def test_a_moved_slider_loads_nothing(flux, base, changes):
    """ComfyUI keeps the model where it is: the same weights at the same addresses, loaded once."""
    models = [live(flux, changes, strength) for strength in (0.5, 0.6, -1.0)]
    for model in models:
        assert model.patches_uuid == flux.patches_uuid
        assert flux.clone_has_same_weights(model)
        assert model.clone_has_same_weights(models[0])
    sampling.unload()
    sampling.sample(models[0], "FLUX.1")
    where = {key: value.data_ptr() for key, value in flux.model.state_dict().items()}
    loads = []
    for model in [*models[1:], flux]:
        model.add_callback("on_load_after", lambda *_: loads.append(1))
        sampling.sample(model, "FLUX.1")
        assert [loaded.model for loaded in comfy.model_management.current_loaded_models] == [model]
        assert {key: value.data_ptr() for key, value in flux.model.state_dict().items()} == where
        assert not model.backup
    flux.callbacks.clear()
    assert not loads
    assert torch.equal(sampling.sample(flux, "FLUX.1"), base)


def test_strength_enters_once(flux, changes):
    """To first order the effect is linear: twice of it for twice the strength, and the sign is a sign. 0 is the model bit for bit."""
    one = sampling.sample(flux, "FLUX.1", steps=1)
    effect = lambda s: sampling.sample(live(flux, changes, s), "FLUX.1", steps=1) - one  # noqa: E731
    unit = effect(1e-3)
    assert unit.norm() > 1e-5 * one.norm()
    for factor in (-1, 2):
        assert (effect(factor * 1e-3) - factor * unit).norm() < 0.05 * unit.norm()
    assert not effect(0.0).any()


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [comfy.model_management.InterruptProcessingException, Stop, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["callback", "layer", "loading"])
def test_an_interrupt_leaves_nothing(flux, base, changes, error, where):
    def fail(*_, **__):
        raise error

    model, options, handle = live(flux, changes), {}, None
    if where == "callback":
        options["callback"] = fail
    elif where == "layer":
        handle = flux.model.diffusion_model.single_blocks[1].register_forward_hook(fail)
    else:
        model.add_callback("on_pre_run", fail)
    with pytest.raises(error):
        sampling.sample(model, "FLUX.1", **options)
    if handle is not None:
        handle.remove()
    assert hooks_on(flux) == 0
    assert torch.equal(sampling.sample(flux, "FLUX.1"), base)


def test_two_hundred_mixed_runs_leave_no_trace(flux, base, changes):
    """Patch, live, keyframes and interrupts in turn: weights bit for bit, no hooks, no growth of memory or options."""
    before, bases = weights(flux), sampling.sample(flux, "FLUX.1", steps=1, cfg=1.0)
    shape = lambda m: str(m.model_options) + str(m.wrappers) + str(m.callbacks)  # noqa: E731
    options = shape(flux)
    group = comfy.hooks.HookKeyframeGroup()
    group.add(comfy.hooks.HookKeyframe(0.5, 0.0))

    def cycle(number):
        strength = 0.1 * (number % 7) - 0.25
        kind = number % 4
        if kind == 0:
            scaled = {key: [(strength, adapter)] for key, ((_, adapter),) in changes.items()}
            sampling.sample(patched(flux, scaled), "FLUX.1", steps=1, cfg=1.0)
        elif kind == 1:
            sampling.sample(live(flux, changes, strength), "FLUX.1", steps=1, cfg=1.0)
        elif kind == 2:
            sampling.sample(live(flux, changes, strength, group), "FLUX.1", steps=1, cfg=1.0)
        else:
            with pytest.raises(Stop):
                sampling.sample(live(flux, changes, strength), "FLUX.1", steps=1, cfg=1.0, callback=_stop)

    for number in range(200):
        cycle(number)
        if number == 100:
            gc.collect()
            tensors, peak = _tensors(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gc.collect()
    assert hooks_on(flux) == 0
    assert shape(flux) == options
    assert _tensors() <= tensors + 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20_000  # kilobytes; one run's factors are 400
    assert torch.equal(sampling.sample(flux, "FLUX.1", steps=1, cfg=1.0), bases)
    sampling.unload()
    assert all(torch.equal(value, before[key]) for key, value in flux.model.state_dict().items())


def _stop(*_):
    raise Stop


def _tensors() -> int:
    return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())


def test_a_thread_that_samples_the_same_model_sees_no_lora(flux, base, changes):
    """While a live run is in the middle of its steps, another thread samples the model without it."""
    found, inside, done = [], threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert done.wait(60)

    def other():
        assert inside.wait(60)
        found.append(_forward(flux))
        done.set()

    expected = _forward(flux)
    thread = threading.Thread(target=other)
    thread.start()
    result = sampling.sample(live(flux, changes), "FLUX.1", callback=wait)
    thread.join()
    assert torch.equal(found[0], expected)
    assert torch.equal(result, sampling.sample(live(flux, changes), "FLUX.1"))


def _forward(model):
    torch.manual_seed(0)
    layer = model.model.diffusion_model.single_blocks[0].linear1
    return layer(torch.linspace(-1, 1, layer.in_features)[None])


def test_two_models_in_two_threads(changes):
    """Each thread's model has its own live LoRA."""
    models = [sampling.MODELS["FLUX.1"]() for _ in range(2)]
    lives = [live(model, changes, strength) for model, strength in zip(models, (1.0, -1.0), strict=True)]
    expected = [sampling.sample(model, "FLUX.1") for model in lives]
    found: dict[int, torch.Tensor] = {}

    def work(at):
        with torch.inference_mode():
            found[at] = sampling.sample(lives[at], "FLUX.1")

    for _ in range(2):
        threads = [threading.Thread(target=work, args=(at,)) for at in range(2)]
        for thread in threads:
            thread.start()
            thread.join(0.05)
        for thread in threads:
            thread.join()
        for at in range(2):
            torch.testing.assert_close(found[at], expected[at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheduled", [False, True])
def test_several_devices_each_with_its_copy_of_the_model(flux, changes, scheduled):
    """Positive and negative run in two worker threads on two copies of the model, as MultiGPU does it; here both on the CPU."""
    group = None
    if scheduled:
        group = comfy.hooks.HookKeyframeGroup()
        group.add(comfy.hooks.HookKeyframe(1.0, 0.0))
        group.add(comfy.hooks.HookKeyframe(0.3, 0.5))
    expected = sampling.sample(live(flux, changes, keyframes=group), "FLUX.1", steps=4)
    model, copy = live(flux, changes, keyframes=group), sampling.MODELS["FLUX.1"]()
    copy.load_device, copy.is_multigpu_base_clone, copy.clone_base_uuid = (
        torch.device("cpu", 0),
        True,
        flux.clone_base_uuid,
    )
    model.set_additional_models("multigpu", [copy])
    threads = set()
    for each in (flux, copy):
        each.model.diffusion_model.img_in.register_forward_hook(lambda *_: threads.add(threading.get_ident()))
    found = sampling.sample(model, "FLUX.1", steps=4)
    for each in (flux, copy):
        each.model.diffusion_model.img_in._forward_hooks.clear()
        assert hooks_on(each) == 0
    assert len(threads - {threading.get_ident()}) == 2
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_two_clones_of_one_model_in_one_sampling_are_an_error(flux, base, changes):
    """ "Dual Model CFG Guider" with the same loaded model on both sides: the layers are the same ones."""
    positive, negative = (sampling.prompt("FLUX.1", seed) for seed in (1, 2))
    models = [live(flux, changes, strength) for strength in (1.0, -1.0)]
    guider = custom.DualModelGuider.execute(models[0], positive, 4.0, models[1], negative).result[0]
    with pytest.raises(StrataError, match="load the model twice"):
        sampling.advanced(guider, "FLUX.1")
    assert hooks_on(flux) == 0
    assert torch.equal(sampling.sample(flux, "FLUX.1"), base)


@pytest.mark.parametrize("compile_first", [True, False])
def test_under_torch_compile_it_is_patched(lora_folder, flux, base, compile_first, caplog):
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(flux, alpha=16.0, dtype=torch.float32))
    load = lambda model, **settings: StrataLoraLoader.execute(name, 0.8, 0.0, model=model, **settings).result  # noqa: E731
    compiled = lambda model: compiling.TorchCompileModel.execute(model, "eager").result[0]  # noqa: E731
    expected = sampling.sample(load(flux)[0], "FLUX.1")
    if compile_first:
        model, _, _, report, _ = load(compiled(flux), apply="live")
        assert "Patched, not live" in report
    else:
        model = compiled(load(flux, apply="live")[0])
    assert is_compiled(model)
    for _ in range(2):
        found = sampling.sample(model, "FLUX.1")
        assert (found - expected).norm() < 1e-4 * expected.norm()
        assert (found - expected).norm() < 2e-3 * (expected - base).norm()
    assert compile_first or "torch.compile" in caplog.text
    assert torch.equal(sampling.sample(flux, "FLUX.1"), base)


@pytest.mark.parametrize("compile_first", [True, False])
def test_keyframes_under_torch_compile_are_an_error(lora_folder, flux, compile_first):
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(flux))
    load = lambda m: StrataLoraLoader.execute(  # noqa: E731
        name, 0.8, 0.0, model=m, keyframes=comfy.hooks.HookKeyframeGroup()
    ).result[0]
    compiled = lambda model: compiling.TorchCompileModel.execute(model, "eager").result[0]  # noqa: E731
    with pytest.raises(StrataError, match=r"Disconnect the keyframes or remove torch\.compile"):
        sampling.sample(load(compiled(flux)) if compile_first else compiled(load(flux)), "FLUX.1")
    assert hooks_on(flux) == 0


def test_compiled_layers_and_object_patches_are_seen(flux):
    assert not is_compiled(flux)
    layer = flux.model.diffusion_model.img_in
    by_object = flux.clone()
    by_object.add_object_patch("diffusion_model.img_in", torch.compile(layer, backend="eager"))
    assert is_compiled(by_object)
    layer.compile(backend="eager")
    try:
        assert is_compiled(flux)
    finally:
        layer._compiled_call_impl = None


def test_layers_whose_forward_is_never_called_are_patched():
    """torch's attention takes its output projection's weight and runs it itself."""
    model = nn.Module()
    model.attention = nn.MultiheadAttention(8, 2)
    model.plain = Linear(8, 8)
    model.norm = LayerNorm(8)
    model.table = Embedding(8, 8)
    model.upwards = ConvTranspose2d(8, 8, 3)
    model.same = model.plain
    assert layers_of(model) == {"plain": model.plain, "same": model.plain}


def test_what_cannot_be_live_is_patched_with_its_whole_weight(flux):
    """A replaced weight and what is added to it stay together; norms are patched; the rest is live."""
    sd = flux.model.state_dict()
    everything = adapter_makers.everywhere(flux, adapter_makers.lora, having="single_blocks.0")
    key = "diffusion_model.single_blocks.0.linear2.weight"
    norm = next(k for k in sd if k.endswith("norm.query_norm.weight"))
    everything[key] = [*everything[key], (1.0, SetWeight(sd[key] * 0.5))]
    everything[norm] = [(1.0, Diff(torch.ones_like(sd[norm]) * 0.1))]
    ours, rest, reasons = split(flux, everything)
    assert rest.keys() == {key, norm}
    assert len(ours) == len(everything) - 2
    assert reasons == {
        "set without a forward form": [key],
        "norms and other parameters outside of linear and convolution layers": [norm],
    }


def test_strength_zero_attaches_nothing(lora_folder, flux):
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(flux))
    assert StrataLoraLoader.execute(name, 0.0, 1.0, model=flux, apply="live").result[0] is flux
