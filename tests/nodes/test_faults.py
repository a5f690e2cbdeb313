"""Whatever fails, wherever: the next run is as if nothing had happened, and the weights are bit for bit what they were."""

from __future__ import annotations

import comfy.float
import comfy.hooks
import comfy.model_management
import comfy.sd1_clip
import comfy.utils
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch

from strata.lora_math import fuse, stack
from strata.lora_math.errors import StrataError
from strata.lora_math.reading import state_dict
from strata.nodes import apply_lora as applying
from strata.nodes.comfy import library, live_run, live_time, patch, targets
from strata.nodes.comfy.library import CACHE
from strata.nodes.comfy.live import LiveLora, attach
from strata.nodes.comfy.live_layers import split
from strata.nodes.fitting import fit
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import adapter_makers, faults, lora_makers, sampling, small_models
from strata.tests.nodes.helpers.faults import ERRORS, INTERRUPT, AtKernel, Fault, Injected, interrupt

FAMILY = "SD3"
LAYERS = 25  # with a live LoRA; its position embedding is no layer and is patched
OOM = torch.OutOfMemoryError


def mixed_lora(model) -> dict:
    """LoRA on every layer, DoRA on each third: products and adapters that read the weight, in turn."""
    tensors = lora_makers.full_lora(model, prefix="diffusion_model.", alpha=16.0, dtype=torch.float32)
    weights = model.model.state_dict()
    for module, key in list(lora_makers.unet_names(model, "diffusion_model.", "blocks").items())[::3]:
        if f"{module}.lora_up.weight" in tensors:
            tensors[f"{module}.dora_scale"] = 1.1 * torch.linalg.vector_norm(weights[key].flatten(1), dim=1)[:, None]
    return tensors


@pytest.fixture(scope="module")
def known():
    """Whether ComfyUI has room for the whole model -> (the model under watch, its LoRA)."""
    yield {}
    sampling.unload()


@pytest.fixture(params=["full", "partly"])
def watched(request, known, lora_folder):
    sampling.unload()  # a model of the tests before, which Python has not collected yet, is none of ours
    if request.param not in known:
        model = sampling.MODELS[FAMILY]()
        if request.param == "partly":
            faults.cramp(model)
        tensors = mixed_lora(model)
        found = faults.Watched(model, FAMILY, lora_folder.save("a.safetensors", tensors))
        assert model.model.model_lowvram == (request.param == "partly")
        known[request.param] = found, tensors
    found, tensors = known[request.param]
    lora_folder.save(found.lora, tensors)
    yield found
    sampling.unload()


def fails(monkeypatch, fault, what, run) -> None:
    owner, name, at = fault
    with monkeypatch.context() as change:
        injected = Fault(change, owner, name, what, at)
        with pytest.raises(INTERRUPT if what is interrupt else what):
            run()
    assert injected.calls >= at


BUILDING = {
    "reading the header": (library.files.headers, "parse", 1),
    "reading the tensors": (library.reading, "read_tensors", 1),
    "what was read": (library.files, "LoraFile", 1),
    "converting": (library, "convert", 1),
    "parsing": (state_dict, "parse", 1),
    "looking for NaN": (library.reading, "check_numbers", 1),
    "knowing the family": (library.family, "guess", 1),
    "key map": (targets, "_valid", 1),
    "fit": (fit, "match", 1),
    "fit of the tenth entry": (fit, "_refusal", 10),
    "patch: tenth weight": (patch, "_records", 10),
    "live: split": (applying, "split", 1),
    "live: attach": (applying.live, "attach", 1),
    "report": (applying.report, "told", 1),
}


@pytest.mark.parametrize("watched", ["full"], indirect=True)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("stage", BUILDING)
def test_in_the_loader_node(watched, monkeypatch, stage, error):
    CACHE.clear()
    targets._known.pop(watched.model.model, None)
    apply = "live" if stage.startswith("live") else "patch"
    fails(monkeypatch, BUILDING[stage], error, lambda: watched.loaded(apply, 0.3))
    assert CACHE.nbytes == (0 if list(BUILDING).index(stage) < 7 else CACHE.get(watched.lora).nbytes)
    watched.check()


PATCHING = {
    "first weight": (patch.StrataPatch, "calculate_weight", 1),
    "tenth weight": (patch.StrataPatch, "calculate_weight", 10),
    "twentieth weight": (
        patch.StrataPatch,
        "calculate_weight",
        20,
    ),  # where the model does not fit, this is in a forward
    "product": (fuse, "add_product_", 8),
    "ComfyUI's own copy of a weight": (comfy.model_management, "cast_to_device", 10),
    "rounding": (comfy.float, "stochastic_rounding", 10),
    "setting a weight": (comfy.utils, "set_attr_param", 10),
}


@pytest.mark.parametrize("what", [INTERRUPT, OOM, interrupt])
@pytest.mark.parametrize("stage", PATCHING)
def test_while_patching(watched, monkeypatch, stage, what):
    """Beginning from an unloaded model, and from one that is loaded with another strength."""
    for before in (None, 0.5):
        if before is not None:
            watched.run("patch", before)
        fails(monkeypatch, PATCHING[stage], what, lambda: watched.run("patch", 0.3))
        watched.check(("patch", None, "live") if before else (None, "patch"))


LIVE = {
    "factors of the first layer": (stack, "build", 1),
    "factors of the tenth layer": (stack, "build", 10),
    "a norm of DoRA": (live_run, "prepared_term", 3),
    "strengths to the device": (stack.Gains, "complete", 1),
    "ComfyUI loading": (comfy.model_management, "load_models_gpu", 1),
    "start": (live_run.Run, "_start", 1),
    "first hook": (live_run, "Hook", 1),
    "tenth hook": (live_run, "Hook", 10),
    "step 1, first layer": (stack, "run", 1),
    "step 1, layer 20": (stack, "run", 20),
    "step 2, layer 3": (stack, "run", LAYERS + 3),
    "strengths of step 1": (live_run.Copy, "_follow", 1),
    "strengths of step 2": (live_run.Copy, "_follow", 2),
    "keyframes of step 2": (live_time.Clock, "strengths", 2),
}


@pytest.mark.parametrize("what", [INTERRUPT, OOM, interrupt])
@pytest.mark.parametrize("stage", LIVE)
def test_while_live(watched, monkeypatch, stage, what):
    keyframes = comfy.hooks.HookKeyframeGroup()
    keyframes.add(comfy.hooks.HookKeyframe(1.0, 0.0))
    keyframes.add(comfy.hooks.HookKeyframe(0.5, 0.2))
    untouched = vars(keyframes).copy()
    fails(monkeypatch, LIVE[stage], what, lambda: watched.run("live", 0.3, keyframes=keyframes))
    assert vars(keyframes) == untouched
    watched.check()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("reserving", [(stack, "nbytes", 1), (comfy.model_management, "free_memory", 1)], ids=str)
def test_while_making_room_for_live_factors(watched, monkeypatch, reserving, error):
    with monkeypatch.context() as change:
        change.setattr(comfy.model_management, "is_device_cpu", lambda device: False)  # a CPU needs no room
        fails(change, reserving, error, lambda: watched.run("live", 0.3))
    watched.check()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("to", ["without", "unloaded"])
def test_while_taking_patches_off(watched, monkeypatch, to, error):
    watched.run("patch", 0.3)
    off = sampling.unload if to == "unloaded" else lambda: watched.run(None)
    fails(monkeypatch, (comfy.utils, "set_attr_param", 10), error, off)
    watched.check()


@pytest.mark.parametrize("apply", faults.MODES)
def test_no_memory_at_any_kernel(watched, apply):
    """Of a whole run: building, patching or moving factors, sampling."""
    sampling.unload()
    CACHE.clear()
    with AtKernel() as counted:
        watched.run(apply, 0.3)
    for part in range(1, 12):
        sampling.unload()
        CACHE.clear()
        with pytest.raises((OOM, StrataError)), AtKernel(counted.kernels * part // 12):
            watched.run(apply, 0.3)
        watched.check((None, apply))


@pytest.mark.parametrize("apply", faults.MODES)
@pytest.mark.parametrize("kind", adapter_makers.MAKERS)
def test_every_adapter_stopped_in_the_middle(watched, monkeypatch, kind, apply):
    """No memory at two thirds of what an adapter does to the fifth weight, or in the fifth layer."""
    changes = adapter_makers.everywhere(watched.model, adapter_makers.MAKERS[kind])
    model = watched.model.clone()
    ours, rest, _ = split(watched.model, changes) if apply == "live" else ({}, changes, None)
    if ours:
        attach(model, LiveLora(ours, "test"))
    patch.add(model, rest)
    expected = sampling.sample(model, FAMILY)
    sampling.unload()
    owner, name = (stack, "run") if apply == "live" else (patch.StrataPatch, "calculate_weight")
    original, calls = getattr(owner, name), 0

    def stopped(*args):
        nonlocal calls
        calls += 1
        if calls != 5:
            return original(*args)
        with AtKernel() as counted:
            original(*(arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args))
        with AtKernel(max(1, counted.kernels * 2 // 3)):
            return original(*args)

    with monkeypatch.context() as change:
        change.setattr(owner, name, stopped)
        with pytest.raises(OOM):
            sampling.sample(model, FAMILY)
    assert torch.equal(sampling.sample(model, FAMILY), expected)
    watched.check((None,))


@pytest.mark.parametrize("error", [Injected, OOM])
@pytest.mark.parametrize("at", [1, 10])
def test_while_patching_text_encoders(monkeypatch, lora_folder, error, at):
    clip = small_models.clip(
        comfy.sd1_clip.SD1ClipModel, tokenizer=comfy.sd1_clip.SD1Tokenizer, clip_l=small_models.SMALL_CLIP
    )
    names = lora_makers.clip_names(clip, "lora_te_")
    tensors = lora_makers.kohya(names, lora_makers.shapes(clip.cond_stage_model), dtype=torch.float32)
    name = lora_folder.save("te.safetensors", tensors)
    weights = {key: value.clone() for key, value in clip.cond_stage_model.state_dict().items()}
    patched = lambda strength: StrataLoraLoader.execute(name, 0.0, strength, clip=clip).result[1]  # noqa: E731
    encode = lambda clip: clip.encode_from_tokens(clip.tokenize("a photo"))  # noqa: E731
    for partly in (False, True):
        with monkeypatch.context() as change:
            if partly:
                faults.cramp(clip.patcher)
            base, expected = encode(clip), encode(patched(0.8))
            assert not torch.equal(base, expected)
            assert clip.cond_stage_model.model_lowvram == partly
            sampling.unload()
            fails(change, (patch.StrataPatch, "calculate_weight", at), error, lambda: encode(patched(0.3)))
            assert torch.equal(encode(clip), base)
            assert torch.equal(encode(patched(0.8)), expected)
            sampling.unload()
            assert all(torch.equal(weights[key], value) for key, value in clip.cond_stage_model.state_dict().items())


@pytest.mark.parametrize("what", [INTERRUPT, OOM, interrupt])
@pytest.mark.parametrize("stage", ["tenth hook", "step 1, layer 20"])
def test_in_the_negative_model_of_a_dual_guider(watched, monkeypatch, stage, what):
    """It runs under the other model's guider, which cleans up in its own way."""
    main, positive, negative = sampling.MODELS[FAMILY](), sampling.prompt(FAMILY, 1), sampling.prompt(FAMILY, 2)
    live = watched.loaded("live", 0.3)
    guider = custom.DualModelGuider.execute(main, positive, 4.0, live, negative).result[0]
    before = str(live.model_options)
    fails(monkeypatch, LIVE[stage], what, lambda: sampling.advanced(guider, FAMILY))
    assert not live.callbacks.get("on_cleanup")
    assert str(live.model_options) == before
    sampling.unload()
    watched.check()
