"""Live and patched LoRAs of one model keep their order, follow each other's strength over time, and are in what is merged or saved."""

from __future__ import annotations

import re

import comfy.hooks
import comfy.sd
import comfy_extras.nodes_model_merging as merging
import pytest
import safetensors.torch
import torch

from strata.lora_math.errors import StrataError
from strata.nodes.comfy import patch
from strata.nodes.comfy.live import LiveLora, attach, loras_of
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack
from strata.tests.nodes.helpers import adapter_makers, lora_makers, sampling

CHANGE = 2e-3


@pytest.fixture(scope="module")
def flux():
    yield sampling.MODELS["FLUX.1"]()
    sampling.unload()


@pytest.fixture(scope="module")
def base(flux):
    return sampling.sample(flux, "FLUX.1", steps=4)


def sample(model):
    return sampling.sample(model, "FLUX.1", steps=4)


def keyframes(*points: tuple[float, float]) -> comfy.hooks.HookKeyframeGroup:
    group = comfy.hooks.HookKeyframeGroup()
    for percent, strength in points:
        group.add(comfy.hooks.HookKeyframe(strength, percent))
    return group


def with_live(model, *loras):
    """loras: (changes, keyframes or None)."""
    clone = model.clone()
    for number, (changes, group) in enumerate(loras):
        attach(clone, LiveLora(changes, f"{number}", group))
    return clone


def with_patches(model, *loras):
    clone = model.clone()
    for changes in loras:
        patch.add(clone, changes)
    return clone


class Anew:
    """The reference: at each step the model is patched anew, and the whole prediction is made by that."""

    def __init__(self, model, make):
        self.model, self.make = model, make

    def sample(self):
        clone, models = self.model.clone(), {}

        def step(apply_model, args):
            sigma = float(args["timestep"].max())
            if sigma not in models:
                models[sigma] = self.make(sigma)
            patched = models[sigma]
            comfy.model_management.load_models_gpu([patched])
            return apply_model(args["input"], args["timestep"], **args["c"])

        clone.set_model_unet_function_wrapper(step)
        return sample(clone)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_norms_of_a_dora_follow_the_keyframes_of_the_lora_before_it(flux, base, strength):
    """From the middle on the LoRA stands at another strength, and the DoRA's norms are those of the weight that it then leaves."""
    lora = adapter_makers.everywhere(flux, adapter_makers.lora)
    dora = adapter_makers.everywhere(flux, adapter_makers.dora, 1)
    group = keyframes((0.0, 1.0), (0.5, strength))
    middle = float(flux.model.model_sampling.percent_to_sigma(0.5))
    reference = Anew(
        flux, lambda sigma: with_patches(flux, adapter_makers.scaled(lora, 1.0 if sigma > middle else strength), dora)
    ).sample()
    found = sample(with_live(flux, (lora, group), (dora, None)))
    assert sampling.distance(found, reference, reference - base) < CHANGE
    stale = sample(with_live(flux, (dora, None), (lora, group)))
    assert sampling.distance(stale, reference, reference - base) > 10 * CHANGE, "the order would not matter"
    assert torch.equal(sample(flux), base)


def load(model, name, strength=1.0, **settings):
    return StrataLoraLoader.execute(name, strength, 0.0, model=model, **settings).result


@pytest.fixture
def files(flux, lora_folder):
    dora = lora_makers.full_lora(flux, alpha=16.0, dtype=torch.float32, seed=1)
    state = flux.model.state_dict()
    names = lora_makers.unet_names(flux)
    for name, key in names.items():
        weight = state[key if isinstance(key, str) else key[0]]
        if f"{name}.lora_up.weight" in dora:
            dora[f"{name}.dora_scale"] = weight.flatten(1).norm(dim=1)[:, None] * 1.3
    plain = lora_makers.full_lora(flux, alpha=16.0, dtype=torch.float32, seed=2)
    return lora_folder.save("dora.safetensors", dora), lora_folder.save("plain.safetensors", plain)


@pytest.mark.parametrize("dora_first", [True, False])
def test_a_patched_lora_behind_a_live_one_stays_behind_it(flux, base, files, dora_first):
    first, second = files if dora_first else files[::-1]
    reference = sample(load(load(flux, first)[0], second)[0])
    other = sample(load(load(flux, second)[0], first)[0])
    model, _, _, report, _ = load(load(flux, first, apply="live")[0], second)
    assert sampling.distance(sample(model), reference, reference - base) < CHANGE
    assert sampling.distance(other, reference, reference - base) > 10 * CHANGE, "the order would not matter"
    assert "a live LoRA stands before this one" in report


def test_where_the_order_does_not_matter_patches_stay_patches(flux, files, lora_folder):
    _, plain = files
    first = load(flux, plain, apply="live")[0]
    model, _, _, report, _ = load(first, plain, 0.5)
    assert len(loras_of(model)) == 1 and model.patches
    assert "stands before" not in report


def test_what_cannot_keep_its_order_is_said(flux, files, lora_folder):
    """A replaced weight has no forward form: it is patched, and comes first."""
    key = "diffusion_model.single_blocks.0.linear1"
    weight = flux.model.state_dict()[f"{key}.weight"]
    name = lora_folder.save("set.safetensors", {f"{key}.set_weight": weight * 0.9})
    _, _, _, report, _ = load(load(flux, files[1], apply="live")[0], name)
    assert "Before the live LoRAs of 1 weight, although it stands behind them (set without a forward form)" in report


def node(cls, method, *args):
    return getattr(cls(), method)(*args)[0]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("side", [0, 1])
def test_a_live_lora_is_merged_as_a_patched_one(flux, files, side, ratio):
    other = sampling.MODELS["FLUX.1"]()
    models = {way: load(flux, files[1], apply=way)[0] for way in ("live", "patch")}
    merged = {}
    for way, model in models.items():
        pair = (model, other) if side == 0 else (other, model)
        merged[way] = sample(node(merging.ModelMergeSimple, "merge", *pair, ratio))
    torch.testing.assert_close(merged["live"], merged["patch"], rtol=1e-5, atol=1e-5)


def test_a_saved_model_holds_its_live_loras(flux, files, tmp_path):
    saved = {}
    for way in ("live", "patch"):
        path = str(tmp_path / f"{way}.safetensors")
        comfy.sd.save_checkpoint(path, load(flux, files[1], 0.7, apply=way)[0])
        saved[way] = safetensors.torch.load_file(path)
    plain = flux.model.state_dict()
    assert saved["live"].keys() == saved["patch"].keys()
    for key, value in saved["patch"].items():
        torch.testing.assert_close(saved["live"][key], value)
    changed = [k for k, v in saved["live"].items() if k in plain and not torch.equal(v, plain[k])]
    assert changed or not any(k in plain for k in saved["live"])
    sampling.unload()


def test_a_difference_of_models_holds_the_live_lora(flux, files):
    models = {way: load(flux, files[1], apply=way)[0] for way in ("live", "patch")}
    patches = {}
    for way, model in models.items():
        found = node(merging.ModelSubtract, "merge", model, flux, 1.0)
        patches[way] = found.patch_weight_to_device(
            "diffusion_model.single_blocks.0.linear1.weight", torch.device("cpu"), return_weight=True
        )
    assert patches["patch"].abs().max() > 0
    torch.testing.assert_close(patches["live"], patches["patch"])


def test_what_changes_over_time_is_neither_merged_nor_saved(flux, files, tmp_path):
    model = load(flux, files[1], keyframes=keyframes((0.0, 1.0), (0.5, 0.0)))[0]
    for use in (
        lambda: node(merging.ModelMergeSimple, "merge", model, flux, 0.5),
        lambda: node(merging.ModelMergeSimple, "merge", flux, model, 0.5),
        lambda: comfy.sd.save_checkpoint(str(tmp_path / "x.safetensors"), model),
    ):
        with pytest.raises(
            StrataError, match=r"plain\.safetensors: it changes while the model samples, over time or with the prompt"
        ):
            use()


def test_metadata_are_attached_in_both_ways(flux, lora_folder):
    tensors = lora_makers.full_lora(flux, alpha=16.0, dtype=torch.float32)
    name = lora_folder.save("ic.safetensors", tensors, {"reference_downscale_factor": "2"})
    for apply in ("patch", "live"):
        model = load(flux, name, apply=apply)[0]
        assert model.get_attachment("lora_metadata") == {"reference_downscale_factor": "2"}


HUGE = [
    ("strength", {"strength": 1e300}, "strength_model is 1e\\+300"),
    ("block weight", {"block_weights": "default=1e38"}, "block weight of diffusion_model"),
    ("keyframe nan", {"keyframes": ((0.5, float("nan")),)}, "keyframe at 50 % has strength nan"),
    ("keyframe 1e30", {"keyframes": ((0.0, 1e30),)}, "keyframe at 0 % has strength 1e\\+30"),
    ("keyframes of another kind", {"keyframes": object()}, "keyframes input takes a strength over time"),
]


@pytest.mark.parametrize("apply", ["patch", "live"])
@pytest.mark.parametrize("_, settings, words", HUGE, ids=[each[0] for each in HUGE])
def test_numbers_beyond_all_sense_are_an_error_in_words(flux, files, apply, _, settings, words):
    settings = dict(settings)
    if isinstance(settings.get("keyframes"), tuple):
        settings["keyframes"] = keyframes(*settings["keyframes"])
    with pytest.raises(StrataError, match=words):
        load(flux, files[1], apply=apply, **settings)


@pytest.mark.parametrize("apply", ["patch", "live"])
@pytest.mark.parametrize("size", [300.0, 6e4])
def test_factors_that_overflow_are_an_error_in_words(flux, lora_folder, apply, size):
    key = "diffusion_model.single_blocks.0.linear1"
    out, inputs = flux.model.state_dict()[f"{key}.weight"].shape
    factors = {
        f"{key}.lora_up.weight": torch.full((out, 4), size),
        f"{key}.lora_down.weight": torch.full((4, inputs), size),
    }
    name = lora_folder.save("huge.safetensors", {k: v.half() for k, v in factors.items()})
    with pytest.raises(StrataError, match=r"huge\.safetensors: .*linear1\.weight becomes larger"):
        sample(load(flux, name, apply=apply)[0])


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "DoRA"])
def test_other_algorithms_that_overflow_stop_the_run_in_words(flux, kind):
    key = "diffusion_model.single_blocks.0.linear1.weight"
    adapter = adapter_makers.MAKERS[kind](flux.model.state_dict()[key], torch.Generator().manual_seed(0))
    adapter = adapter.map_tensors(lambda tensor: torch.full_like(tensor, 3e19))
    with pytest.raises(StrataError, match="becomes larger than a model's numbers"):
        sample(with_live(flux, ({key: [(1.0, adapter)]}, None)))


@pytest.mark.parametrize("swapped", [False, True])
def test_half_precision_holds_factors_of_very_different_size(swapped):
    """1e6 times 1e-6: the product is an ordinary one, and half precision ends at 65504."""
    from strata.lora_math import stack
    from strata.lora_math.adapters import LoRA
    from strata.lora_math.layer import Layer

    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=generator) for shape in ((24, 4), (4, 16)))
    size = 1e-6 if swapped else 1e6
    adapter = LoRA(up * size, down / size)
    gains = stack.Gains()
    layer = Layer(lambda x: torch.zeros(*x.shape[:-1], 24), (24, 16))
    steps = stack.build([stack.LiveTerm(1.0, adapter)], layer, gains, torch.device("cpu"), torch.float16)
    gains.complete(torch.device("cpu"))
    x = torch.randn(5, 16, generator=generator)
    found = stack.run(steps, layer, x.half(), torch.zeros(5, 24, dtype=torch.float16))
    torch.testing.assert_close(found.float(), x @ (up @ down).T, rtol=5e-3, atol=5e-3)


ZERO = [
    ({"strength": 0.0, "clip": 1.0}, "nothing acts, strength_model is 0"),
    ({"block_weights": "default=0"}, "nothing acts, all block weights are 0"),
    ({"block_weights": "S*=0"}, r"\d+ of \d+ tensors act, the block weight of the others is 0"),
    ({"mask": torch.zeros(1, 8, 8)}, "nothing acts, the mask is black everywhere"),
    ({"block_weights": "S*=0.5"}, r"all \d+ tensors applied"),
]


@pytest.mark.parametrize("settings, words", ZERO, ids=[words for _, words in ZERO])
def test_the_verdict_says_what_acts(flux, files, settings, words):
    settings = dict(settings)
    clip = settings.pop("clip", 0.0)
    strength = settings.pop("strength", 1.0)
    for apply in ("patch", "live"):
        report = StrataLoraLoader.execute(files[1], strength, clip, model=flux, apply=apply, **settings).result[3]
        assert re.search(words, report.splitlines()[0]), report


def test_a_black_mask_leaves_text_tokens_where_the_row_says_so(flux, files):
    black = torch.zeros(1, 8, 8)
    for row, words in (
        ("mask=1", "nothing acts, the mask is black everywhere"),
        ("mask=1+text", r"all \d+ tensors applied"),
    ):
        out = StrataLoraStack.execute(f"<lora:{files[1]}:1:{row}>", model=flux, masks=black).result
        assert re.search(words, out[4]), out[4]


UNTRAINED = [
    (lambda key: key.endswith("lora_up.weight"), r"nothing acts, nothing in it was trained \(factors or alpha of 0\)"),
    (lambda key: key.endswith(".alpha"), r"nothing acts, nothing in it was trained \(factors or alpha of 0\)"),
    (
        lambda key: key.endswith("lora_up.weight") and "single" in key,
        r"\d+ of \d+ tensors act, \d+ tensors untrained \(factors or alpha of 0\)",
    ),
]


@pytest.mark.parametrize(("which", "words"), UNTRAINED)
def test_what_was_never_trained_does_not_act(flux, lora_folder, which, words):
    tensors = lora_makers.full_lora(flux)
    name = lora_folder.save("one.safetensors", {k: t * (0 if which(k) else 1) for k, t in tensors.items()})
    for apply in ("patch", "live"):
        report = StrataLoraLoader.execute(name, 1.0, 0.0, model=flux, apply=apply).result[3]
        assert re.search(words, report.splitlines()[0]), report
