"""A strength that varies over the sampling and between the prompts, against a model that is patched anew at every step and runs both
prompts apart."""

from __future__ import annotations

import functools

import comfy.hooks
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch

from strata.lora_math.adapters import LoRA
from strata.lora_math.errors import StrataError
from strata.lora_math.schedule import Place, Schedule, Variation, parse
from strata.nodes.comfy import patch
from strata.nodes.comfy.live import LiveLora, attach, into_patches
from strata.nodes.comfy.live_time import read_variation
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.prompt import StrataLoraFromPrompt
from strata.nodes.schedule import StrataLoraSchedule
from strata.nodes.stack import StackEntry, read_stack
from strata.tests.lora_math.reference_layers import Varying
from strata.tests.nodes.helpers import adapter_makers, lora_makers, sampling

LATENT = 1e-4
STEPS = 4


def sample(model, family: str, sampler: str = "euler", cfg: float = 3.0, positive=None, negative=None) -> torch.Tensor:
    start = sampling.noise(family)
    return comfy.sample.sample(
        *(model, start, STEPS, cfg, sampler, "simple"),
        *(positive or sampling.prompt(family, 1), negative or sampling.prompt(family, 2), torch.zeros_like(start)),
        disable_pbar=True,
        seed=3,
    )


def reference(model, family: str, strength, changes, **settings) -> torch.Tensor:
    """strength: (sigma, is negative) -> number; changes: a dict, or sigma -> such. Each prompt of each call runs alone, through the model
    patched for it."""

    def run(apply_model, args):
        sides, outputs = args["cond_or_uncond"], []
        for at, side in enumerate(sides):
            part = lambda value, at=at: value.chunk(len(sides))[at] if isinstance(value, torch.Tensor) else value  # noqa: E731
            clone, sigma = model.clone(), float(args["timestep"].max())
            now = changes(sigma) if callable(changes) else changes
            patch.add(clone, adapter_makers.scaled(now, strength(sigma, side == 1)))
            comfy.model_management.load_models_gpu([clone])
            c = {name: part(value) for name, value in args["c"].items()}
            outputs.append(apply_model(part(args["input"]), part(args["timestep"]), **c))
        return torch.cat(outputs)

    clone = model.clone()
    clone.set_model_unet_function_wrapper(run)
    return sample(clone, family, **settings)


def live(model, changes: dict, variation: Variation):
    clone = model.clone()
    prompts = variation.positive, variation.negative
    attach(clone, LiveLora(changes, "test", variation.time, prompts=prompts))
    return clone


PERCENTS = torch.linspace(0, 1, 4001, dtype=torch.float64)


@functools.cache
def _sigmas(model_sampling) -> torch.Tensor:
    return torch.tensor([float(model_sampling.percent_to_sigma(float(p))) for p in PERCENTS], dtype=torch.float64)


def percent_of(model, sigma: float) -> float:
    """The inverse of ComfyUI's percents, between the entries of a fine table."""
    sigmas = _sigmas(model.model.model_sampling)
    after = int((sigmas >= sigma).sum().clamp(1, len(sigmas) - 1))
    start, end = float(sigmas[after - 1]), float(sigmas[after])
    share = min(max((start - sigma) / (start - end), 0.0), 1.0)
    return float(PERCENTS[after - 1] + share * (PERCENTS[after] - PERCENTS[after - 1]))


@pytest.fixture(scope="module")
def models():
    yield from sampling.each_once(
        lambda model, _: (model, adapter_makers.scaled(adapter_makers.everywhere(model, adapter_makers.lora), 8.0))
    )


def assert_same(found, expected, plain):
    change = (expected - plain).norm()
    assert change > 1e-3 * plain.norm(), "the LoRA does next to nothing: the test would prove nothing"
    assert (found - expected).norm() < LATENT * expected.norm()
    assert (found - expected).norm() < 2e-3 * change


@pytest.mark.parametrize("family", sampling.MODELS)
def test_a_curve_and_a_prompt_on_every_architecture(models, family):
    """Fading in, and half as strong on the negative prompt."""
    model, changes = models(family)
    variation = Variation(parse("0@0%, 1@100%"), 1.0, 0.5)
    strength = lambda sigma, negative: percent_of(model, sigma) * (0.5 if negative else 1)  # noqa: E731
    expected = reference(model, family, strength, changes)
    plain = sample(model, family)
    assert_same(sample(live(model, changes, variation), family), expected, plain)
    assert torch.equal(sample(model, family), plain)


@pytest.mark.parametrize("family", ["SD1.5", "FLUX.1"])
def test_an_adapter_that_varies_by_itself(models, family):
    """Fewer rank columns the noisier the picture is, on a loader without a strength over time; a DoRA behind it norms what it meets."""
    model, changes = models(family)
    sampling_ = model.get_model_object("model_sampling")
    doras = adapter_makers.everywhere(model, adapter_makers.dora)
    varying = {key: [(c, Varying(a.up, a.down, a.mid, a.scale)) for c, a in terms] for key, terms in changes.items()}

    def at(sigma: float) -> dict:
        timestep = 1000 * sigma if family == "FLUX.1" else float(sampling_.timestep(torch.tensor(sigma)))
        found = {}
        for key, ((c, a),) in changes.items():
            count = int((1000 - timestep) / 1000 * (a.rank - 1)) + 1
            up = torch.cat([0.5 * a.up[:, :1], a.up[:, 1:count]], 1)
            found[key] = [(c, LoRA(up, a.down[:count], None, a.scale)), *doras[key]]
        return found

    assert len({len(at(sigma)[next(iter(changes))][0][1].down) for sigma in (0.01, 0.6, 0.99)}) > 1
    clone = model.clone()
    attach(clone, LiveLora(varying, "test"))
    attach(clone, LiveLora(doras, "dora"))
    expected, plain = reference(model, family, lambda *_: 1.0, at), sample(model, family)
    assert_same(sample(clone, family), expected, plain)
    with pytest.raises(StrataError, match="changes while the model samples"):
        into_patches(clone.clone())


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ipndm", "euler_ancestral", "heun"])
def test_samplers(models, sampler):
    model, changes = models("SD1.5")
    variation = Variation(parse("hold: 1@0%, -0.5@40%"), 1.0, 0.0)
    strength = lambda sigma, negative: 0 if negative else (1 if percent_of(model, sigma) < 0.4 else -0.5)  # noqa: E731
    expected = reference(model, "SD1.5", strength, changes, sampler=sampler)
    plain = sample(model, "SD1.5", sampler)
    assert_same(sample(live(model, changes, variation), "SD1.5", sampler), expected, plain)


@pytest.mark.parametrize("text", ["0@0s, 1@3s", "hold: 1@0s, 0@1s", "1@1sigma, 0@0sigma", "smooth: 1@0, 0@1"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_units_and_shapes(models, text, cfg):
    model, changes = models("FLUX.1")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS).tolist()

    def strength(sigma, _):
        step = min(range(STEPS), key=lambda at: abs(sigmas[at] - sigma))
        share = percent_of(model, sigma)
        return {
            "0@0s, 1@3s": step / 3,
            "hold: 1@0s, 0@1s": float(step < 1),
            "1@1sigma, 0@0sigma": sigma,
            "smooth: 1@0, 0@1": 1 - share * share * (3 - 2 * share),
        }[text]

    expected = reference(model, "FLUX.1", strength, changes, cfg=cfg)
    plain = sample(model, "FLUX.1", cfg=cfg)
    assert_same(sample(live(model, changes, Variation(parse(text))), "FLUX.1", cfg=cfg), expected, plain)


@pytest.mark.parametrize("kind", ["DoRA", "GLoRA", "OFT", "BOFT", "IA3 on inputs", "LoKr"])
def test_every_adapter_on_one_prompt_only(models, kind):
    model, _ = models("FLUX.1")
    changes = adapter_makers.everywhere(model, adapter_makers.MAKERS[kind])
    expected = reference(model, "FLUX.1", lambda _, negative: 0 if negative else 1, changes)
    found = sample(live(model, changes, Variation(None, 1.0, 0.0)), "FLUX.1")
    assert_same(found, expected, sample(model, "FLUX.1"))


def test_biases_and_convolutions_on_one_prompt_only(models):
    model, _ = models("SD1.5")
    changes = adapter_makers.everywhere(model, adapter_makers.ia3)
    expected = reference(model, "SD1.5", lambda _, negative: 0 if negative else 1, changes)
    found = sample(live(model, changes, Variation(None, 1.0, 0.0)), "SD1.5")
    assert_same(found, expected, sample(model, "SD1.5"))


def test_the_negative_prompt_is_known_by_its_guider(models):
    """DualCFGGuider hands the negative prompt over first, where all others have the positive one."""
    model, changes = models("SD1.5")
    prompts = [sampling.prompt("SD1.5", seed) for seed in (1, 4, 2)]
    guider = lambda m: custom.DualCFGGuider.execute(m, *prompts, 3.0, 2.0, "nested").result[0]  # noqa: E731
    only_positive = sampling.advanced(guider(live(model, changes, Variation(None, 1.0, 0.0))), "SD1.5")
    seen = []

    def run(apply_model, args):
        sides, outputs = args["cond_or_uncond"], []
        for at, side in enumerate(sides):
            part = lambda value, at=at: value.chunk(len(sides))[at] if isinstance(value, torch.Tensor) else value  # noqa: E731
            clone = model.clone()
            patch.add(clone, adapter_makers.scaled(changes, 0 if side == 0 else 1))
            comfy.model_management.load_models_gpu([clone])
            c = {name: part(value) for name, value in args["c"].items()}
            outputs.append(apply_model(part(args["input"]), part(args["timestep"]), **c))
            seen.append(side)
        return torch.cat(outputs)

    clone = model.clone()
    clone.set_model_unet_function_wrapper(run)
    expected = sampling.advanced(guider(clone), "SD1.5")
    assert set(seen) == {0, 1, 2}
    assert_same(only_positive, expected, sampling.advanced(guider(model), "SD1.5"))


def test_several_areas_and_a_batch(models):
    model, changes = models("SD1.5")
    areas = [*sampling.prompt("SD1.5", 5), *sampling.prompt("SD1.5", 6, area=(4, 4, 2, 2), strength=0.7)]
    expected = reference(model, "SD1.5", lambda _, negative: 0 if negative else 1, changes, positive=areas)
    found = sample(live(model, changes, Variation(None, 1.0, 0.0)), "SD1.5", positive=areas)
    assert_same(found, expected, sample(model, "SD1.5", positive=areas))


def test_a_dora_behind_a_lora_for_one_prompt_says_that_it_cannot(models):
    model, changes = models("FLUX.1")
    clone = live(model, changes, Variation(None, 1.0, 0.0))
    attach(clone, LiveLora(adapter_makers.everywhere(model, adapter_makers.dora), "dora"))
    with pytest.raises(StrataError, match="put that DoRA before this LoRA"):
        sample(clone, "FLUX.1")
    first = model.clone()
    attach(first, LiveLora(adapter_makers.everywhere(model, adapter_makers.dora), "dora"))
    attach(first, LiveLora(changes, "lora", prompts=(1.0, 0.0)))
    assert torch.isfinite(sample(first, "FLUX.1")).all()


def group(*points):
    found = comfy.hooks.HookKeyframeGroup()
    for percent, strength in points:
        found.add(comfy.hooks.HookKeyframe(strength, percent))
    return found


WIRES = [
    ("text", "0@0, 1@1", parse("0@0, 1@1")),
    ("list", [0.2, 1, -1], parse("hold: 0.2@0s, 1@1s, -1@2s")),
    ("number", 0.5, parse("hold: 0.5@0s")),
    ("linear curve", {"points": [[0, 0], [0.3, 1]], "interpolation": "linear"}, parse("0@0, 1@0.3")),
]


@pytest.mark.parametrize("_, value, expected", WIRES, ids=[name for name, *_ in WIRES])
def test_what_a_wire_may_carry(_, value, expected):
    assert read_variation(value) == Variation(expected)


@pytest.mark.parametrize(
    "value",
    [
        "", "x", "1@", [], [float("nan")], [1] * 1001, [10**400], 10**400, float("inf"), {"points": None}, {"points": []},
        {"points": [], "interpolation": "linear"}, {"points": [[0]], "interpolation": "linear"}, {"points": [[0, "x"]]},
        {"points": [[1, 0], [0, 1]], "interpolation": "linear"}, 3 + 0j, torch.ones(3), object(),
    ],
)  # fmt: skip
def test_what_is_no_strength_over_time_says_which_input(value):
    with pytest.raises(StrataError, match="keyframes") as error:
        read_variation(value)
    assert not any(word in str(error.value) for word in ("object is", "float()", "unpack", "subscript", "iterable"))


def test_a_point_beyond_the_end_is_known():
    assert parse("0@0%, 1@200%").unreached == ["1@200%"]
    assert parse("0@0%, 1@100%").unreached == parse("0@0s, 1@200s").unreached == []


def test_a_smooth_curve_and_keyframes():
    from comfy_api.input import CurveInput

    raw = {"points": [[0, 0], [0.5, 1], [1, 0.2]], "interpolation": "monotone_cubic"}
    time = read_variation(raw).time
    assert isinstance(time, Schedule)
    curve = CurveInput.from_raw(raw)
    for percent in (0, 0.13, 0.5, 0.777, 1):
        assert time.at(Place(percent, 0, 0)) == pytest.approx(curve.interp(percent), abs=1e-3)
    frames = group((0.0, 1.0))
    assert read_variation(frames).time is frames
    for wrong in (object(), {"x": 1}, ["a"], {"points": "no"}):
        with pytest.raises(StrataError):
            read_variation(wrong)


def load(model, name, strength=0.8, clip=0.0, **settings):
    return StrataLoraLoader.execute(name, strength, clip, model=model, **settings).result


def test_the_node_and_the_stack_carry_it(models, lora_folder):
    model, _ = models("FLUX.1")
    tensors = lora_makers.full_lora(model, alpha=16.0, dtype=torch.float32)
    name = lora_folder.save("a.safetensors", tensors)
    variation, text = StrataLoraSchedule.execute("fade in", 1.0, 0.5).result
    assert text == "0@0%, 1@100%"
    direct = load(model, name, keyframes=variation)
    (entry,) = read_stack([StackEntry(name, 0.8, 0.0, None, variation)])
    assert entry.keyframes is variation
    other = lora_folder.save("b.safetensors", tensors)
    stacked = load(model, other, 0.0, lora_stack=[entry])
    found = sample(direct[0], "FLUX.1")
    assert torch.equal(found, sample(stacked[0], "FLUX.1"))
    assert not torch.equal(found, sample(load(model, name)[0], "FLUX.1"))
    assert (
        "its strength follows the keyframes: 0@0%, 1@100%, x 1 on the positive and x 0.5 on the negative prompt"
        in direct[3]
    )


@pytest.mark.parametrize("fields", ["0.8:0:at=0@0%, 1@100%", "0.8:te=0:unet=0@0,0.8@1"])
def test_a_tag_of_a_prompt_says_it(models, lora_folder, fields):
    model, _ = models("FLUX.1")
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model, alpha=16.0, dtype=torch.float32))
    tagged = StrataLoraFromPrompt.execute(f"a cat <lora:a:{fields}>", model=model).result
    assert tagged[2] == "a cat"
    direct = load(model, name, 0.8, keyframes="0@0, 1@1")[0]
    assert torch.allclose(sample(tagged[0], "FLUX.1"), sample(direct, "FLUX.1"), rtol=0, atol=1e-5)


def test_a_prompt_is_read_in_its_own_order_when_its_files_are_looked_at(lora_folder):
    lora_folder.save("a.safetensors", {"x": torch.zeros(1)})
    read = lambda order: StrataLoraFromPrompt.fingerprint_inputs("<lora:a:1:0@5,1@6>", order)  # noqa: E731
    assert read("clip:model (A1111)") and read("clip:model (A1111)") != read("model:clip")


@pytest.mark.parametrize("apply", ["auto", "patch"])
def test_a_constant_curve_is_a_strength(models, lora_folder, apply):
    model, _ = models("FLUX.1")
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model, alpha=16.0, dtype=torch.float32))
    half = load(model, name, 1.0, apply=apply, keyframes="0.5")[0]
    assert torch.equal(sample(half, "FLUX.1"), sample(load(model, name, 0.5, apply=apply)[0], "FLUX.1"))


@pytest.mark.parametrize(
    "wrong, words", [("1@x", "'1@x' is no point"), ("", "is empty"), (None, "strength is missing"), (5, "not a text")]
)
def test_the_node_refuses_in_words(wrong, words):
    with pytest.raises(StrataError, match=words):
        StrataLoraSchedule.execute(wrong)


@pytest.mark.parametrize(("steps", "turns"), [(1, (0, 1, 0, 1)), (2, (0, 0, 1, 1)), (3, (0, 0, 0, 1))])
def test_loras_that_take_turns(models, lora_folder, steps, turns):
    """LoRA Switch: as a model that is patched anew at every step with the LoRA whose turn it is."""
    model, _ = models("SD1.5")
    both = [
        adapter_makers.scaled(adapter_makers.everywhere(model, adapter_makers.lora, seed=seed), 8.0) for seed in (3, 4)
    ]
    clone = model.clone()
    for changes, text in zip(both, (f"1@0s, 0@{steps}s", f"0@0s, 1@{steps}s"), strict=True):
        attach(clone, LiveLora(changes, text, parse(f"hold: {text}, again@{2 * steps}s")))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS).tolist()

    def turn(sigma):
        return both[turns[min(range(STEPS), key=lambda at: abs(sigmas[at] - sigma))]]

    expected = reference(model, "SD1.5", lambda sigma, is_negative: 1.0, turn)
    assert_same(sample(clone, "SD1.5"), expected, sample(model, "SD1.5"))
