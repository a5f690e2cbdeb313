"""The noise under a strength over time, against what ComfyUI's samplers are really given."""

from __future__ import annotations

import asyncio

import comfy.sample
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as advanced
import pytest
import torch

import nodes
from strata.lora_math.errors import StrataError
from strata.nodes.comfy import noise_steps
from strata.tests.nodes.helpers import sampling


@pytest.fixture(scope="module")
def models():
    yield {family: sampling.MODELS[family]() for family in ("SD1.5", "Wan")}
    sampling.unload()


@pytest.fixture(scope="module", autouse=True)
def registered():
    """ComfyUI's own nodes, under their names."""
    asyncio.run(nodes.init_builtin_extra_nodes())


def made(node, slot=0, **values):
    return noise_steps.Made(node, slot, values)


def k_sampler(sampler, scheduler, steps, denoise=1.0):
    return [made("KSampler", steps=steps, sampler_name=sampler, scheduler=scheduler, denoise=denoise)]


NORMAL = k_sampler("euler", "normal", 4)


def sigmas(run, way):
    return [sigma for sigma, _ in noise_steps.steps_of(run, way)]


def given(model, family, sample):
    """What ComfyUI hands to its samplers. sample: called with a model, the two prompts and a latent picture."""
    seen = []

    def look(apply_model, args):
        seen.append(args["c"]["transformer_options"]["sample_sigmas"].tolist())
        return torch.zeros_like(args["input"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(look)
    start = sampling.noise(family)
    sample(clone, sampling.prompt(family, 1), sampling.prompt(family, 2), torch.zeros_like(start))
    return seen[0]


@pytest.mark.parametrize("family", ["SD1.5", "Wan"])
@pytest.mark.parametrize(
    ("sampler", "scheduler", "steps", "denoise"),
    [
        ("euler", "normal", 4, 1.0),
        ("dpm_2", "karras", 5, 1.0),
        ("euler", "simple", 3, 0.6),
        ("dpm_2_ancestral", "beta", 4, 0.5),
    ],
)
def test_it_is_what_the_sampler_gets(models, family, sampler, scheduler, steps, denoise):
    def sample(model, positive, negative, latent):
        noise = sampling.noise(family)
        comfy.sample.sample(
            *(model, noise, steps, 1.0, sampler, scheduler, positive, negative, latent),
            denoise=denoise,
            disable_pbar=True,
            seed=1,
        )

    found = sigmas(noise_steps.remember(models[family]), k_sampler(sampler, scheduler, steps, denoise))
    assert found == pytest.approx(given(models[family], family, sample), rel=1e-6)


@pytest.mark.parametrize(
    ("first", "last", "leftover"), [(0, 10000, "disable"), (2, 5, "enable"), (2, 5, "disable"), (3, 10000, "enable")]
)
def test_the_part_of_an_advanced_sampler(models, first, last, leftover):
    values = {"steps": 6, "sampler_name": "euler", "scheduler": "karras", "start_at_step": first, "end_at_step": last}
    values["return_with_leftover_noise"] = leftover

    def sample(model, positive, negative, latent):
        others = {"add_noise": "enable", "noise_seed": 1, "cfg": 1.0, "positive": positive, "negative": negative}
        nodes.KSamplerAdvanced().sample(model=model, latent_image={"samples": latent}, **others, **values)

    found = sigmas(noise_steps.remember(models["SD1.5"]), [made("KSamplerAdvanced", **values)])
    assert found == pytest.approx(given(models["SD1.5"], "SD1.5", sample), rel=1e-6)
    assert len(found) == min(last, 6) - first + 1


def test_an_advanced_sampler_that_begins_behind_its_end_has_no_steps(models):
    way = [made("KSamplerAdvanced", **{**NORMAL[0].values, "start_at_step": 4, "end_at_step": 9})]
    way[0].values["return_with_leftover_noise"] = "enable"
    assert noise_steps.steps_of(noise_steps.remember(models["SD1.5"]), way) == []


# node -> settings that are not those that it is put down with.
SETTINGS = {
    "AlignYourStepsScheduler": {"model_type": "SDXL", "steps": 7, "denoise": 0.8},
    "BasicScheduler": {"scheduler": "beta", "steps": 5, "denoise": 0.7},
    "BetaSamplingScheduler": {"steps": 6, "alpha": 0.7, "beta": 0.5},
    "ExponentialScheduler": {"steps": 5, "sigma_max": 10.0, "sigma_min": 0.1},
    "ExtendIntermediateSigmas": {"steps": 3, "start_at_sigma": -1.0, "end_at_sigma": 0.3, "spacing": "cosine"},
    "FlipSigmas": {},
    "Flux2Scheduler": {"steps": 4, "width": 768, "height": 512},
    "GITSScheduler": {"coeff": 1.1, "steps": 8, "denoise": 0.9},
    "Ideogram4Scheduler": {"steps": 5, "width": 512, "height": 768, "mu": 0.5, "std": 1.5},
    "KarrasScheduler": {"steps": 4, "sigma_max": 12, "sigma_min": 0.05, "rho": 6.5},
    "LTXVScheduler": {"steps": 6, "max_shift": 2.0, "base_shift": 0.9, "stretch": True, "terminal": 0.2},
    "LaplaceScheduler": {"steps": 5, "sigma_max": 10.0, "sigma_min": 0.1, "mu": 0.2, "beta": 0.6},
    "ManualSigmas": {"sigmas": "5, 2.5 .5 and 0"},
    "OptimalStepsScheduler": {"model_type": "Wan", "steps": 9, "denoise": 0.9},
    "PolyexponentialScheduler": {"steps": 4, "sigma_max": 9.0, "sigma_min": 0.2, "rho": 1.3},
    "SDTurboScheduler": {"steps": 3, "denoise": 0.8},
    "SetFirstSigma": {"sigma": 3.5},
    "SplitSigmas": {"step": 2},
    "SplitSigmasDenoise": {"denoise": 0.4},
    "VPScheduler": {"steps": 4, "beta_d": 18.0, "beta_min": 0.2, "eps_s": 0.002},
}
# Steps for those that change the steps of another node.
BEFORE = made("BasicScheduler", scheduler="simple", steps=6, denoise=1.0)


def test_every_node_that_is_followed_is_tried():
    assert SETTINGS.keys() == noise_steps.FOLLOWED


@pytest.mark.parametrize("family", ["SD1.5", "Wan"])
@pytest.mark.parametrize("node", SETTINGS)
def test_it_is_what_the_node_makes(models, family, node):
    model, kind = models[family], nodes.NODE_CLASS_MAPPINGS[node]
    types = {of for of, *_ in kind.INPUT_TYPES().get("required", {}).values() if isinstance(of, str)}
    before = custom.BasicScheduler.execute(model, "simple", 6, 1.0).result[0]
    wires = {"model": model} if "MODEL" in types else {}
    if "SIGMAS" in types:
        wires["sigmas"] = before.clone()
    expected = kind.execute(**wires, **SETTINGS[node]).result
    run = noise_steps.remember(model)
    for slot, output in enumerate(expected):
        way = [*([BEFORE] if "sigmas" in wires else []), made(node, slot, **SETTINGS[node])]
        assert sigmas(run, way) == pytest.approx(output.tolist(), rel=1e-6)
        assert len(output) > 1


def test_several_nodes_in_a_row(models):
    """Half of the steps, turned round: what unsampling nodes are given."""
    way = [BEFORE, made("SplitSigmas", 1, step=2), made("FlipSigmas")]
    found = sigmas(noise_steps.remember(models["SD1.5"]), way)
    before = custom.BasicScheduler.execute(models["SD1.5"], "simple", 6, 1.0).result[0]
    expected = custom.FlipSigmas.execute(custom.SplitSigmas.execute(before, 2).result[1]).result[0]
    assert found == pytest.approx(expected.tolist(), rel=1e-6)
    assert found[0] == pytest.approx(0.0001)


def test_a_shift_of_the_model_counts_and_percents_are_comfyuis(models):
    shifted = advanced.ModelSamplingSD3().patch(models["Wan"], 3.0)[0]
    run = noise_steps.remember(shifted)
    scheduler = custom.BasicScheduler.execute(shifted, "simple", 6, 0.8).result[0]
    found = noise_steps.steps_of(run, [made("BasicScheduler", scheduler="simple", steps=6, denoise=0.8)])
    assert [sigma for sigma, _ in found] == pytest.approx(scheduler.tolist())
    sampling_of = shifted.get_model_object("model_sampling")
    for sigma, percent in found[:-1]:
        assert sampling_of.percent_to_sigma(percent / 100) == pytest.approx(sigma, rel=1e-3)


def test_without_a_run_or_its_model_nothing_is_known(models):
    assert noise_steps.steps_of("never", NORMAL) is None
    assert noise_steps.remember(None) is None
    model = sampling.MODELS["SD1.5"]()
    run = noise_steps.remember(model)
    assert noise_steps.steps_of(run, NORMAL) is not None
    assert noise_steps.remember(model) != run
    del model
    assert noise_steps.steps_of(run, NORMAL) is None


def test_what_only_the_run_knows_is_not_known(models):
    run = noise_steps.remember(models["SD1.5"])
    assert noise_steps.steps_of(run, []) is None
    assert noise_steps.steps_of(run, [made("AddNoise")]) is None
    assert noise_steps.steps_of(run, [BEFORE, made("SomebodysSigmas", step=1)]) is None
    assert noise_steps.steps_of(run, [BEFORE, made("SplitSigmas")]) is None
    assert noise_steps.steps_of(run, [made("KSampler", sampler_name="euler", scheduler="normal", denoise=1.0)]) is None
    assert noise_steps.steps_of(run, [BEFORE, *[made("FlipSigmas")] * noise_steps.MAX_NODES]) is None


@pytest.mark.parametrize(
    "way",
    [
        k_sampler("x", "normal", 4),
        k_sampler("euler", "x", 4),
        k_sampler("euler", "normal", 0),
        k_sampler("euler", "normal", 4.0),
        k_sampler("euler", "normal", 10**6),
        k_sampler("euler", "normal", 4, True),
        k_sampler("euler", "normal", 4, float("nan")),
        [made("FlipSigmas")],
        [BEFORE, made("SplitSigmas", 2, step=1)],
        [made("ManualSigmas", sigmas="1," * 5000)],
        [made("ManualSigmas", sigmas=5)],
        [made("ManualSigmas", sigmas=""), made("SetFirstSigma", sigma=1.0)],
        [made("KarrasScheduler", steps=3, sigma_max=1.0, sigma_min=0.1, rho=0.0)],
    ],
)
def test_what_is_no_sampling_is_refused(models, way):
    with pytest.raises(StrataError):
        noise_steps.steps_of(noise_steps.remember(models["SD1.5"]), way)


def test_why_it_is_refused(models):
    run = noise_steps.remember(models["SD1.5"])
    with pytest.raises(StrataError, match="KSampler has no noise for these settings"):
        noise_steps.steps_of(run, k_sampler("euler", "kl_optimal", 1))
    with pytest.raises(StrataError, match="at denoise"):
        noise_steps.steps_of(run, k_sampler("euler", "normal", 4, 0.0001))
    with pytest.raises(StrataError, match="steps of BasicScheduler cannot be '4'"):
        noise_steps.steps_of(run, [made("BasicScheduler", scheduler="normal", steps="4", denoise=1.0)])
    many = [made("BasicScheduler", scheduler="normal", steps=9000, denoise=1.0)]
    extended = made("ExtendIntermediateSigmas", steps=100, start_at_sigma=-1.0, end_at_sigma=0.0, spacing="linear")
    with pytest.raises(StrataError, match="more steps than are drawn"):
        noise_steps.steps_of(run, [*many, extended])


def test_only_the_last_runs_are_remembered(models):
    runs = [noise_steps.remember(models["SD1.5"]) for _ in range(noise_steps.MAX_RUNS + 1)]
    assert noise_steps.steps_of(runs[0], NORMAL) is None
    assert noise_steps.steps_of(runs[-1], NORMAL) is not None
