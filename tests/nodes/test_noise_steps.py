"""The noise under a strength over time, against what ComfyUI's samplers are really given."""

from __future__ import annotations

import comfy.sample
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as advanced
import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.nodes.comfy import noise_steps
from strata.tests.nodes.helpers import sampling


@pytest.fixture(scope="module")
def models():
    yield {family: sampling.MODELS[family]() for family in ("SD1.5", "Wan")}
    sampling.unload()


def sigmas(*question):
    return [sigma for sigma, _ in noise_steps.steps_of(*question)]


def given(model, family, sampler, scheduler, steps, denoise):
    """What ComfyUI hands to its samplers."""
    seen = []

    def look(apply_model, args):
        seen.append(args["c"]["transformer_options"]["sample_sigmas"].tolist())
        return torch.zeros_like(args["input"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(look)
    start = sampling.noise(family)
    prompts = sampling.prompt(family, 1), sampling.prompt(family, 2)
    comfy.sample.sample(
        *(clone, start, steps, 1.0, sampler, scheduler, *prompts, torch.zeros_like(start)),
        denoise=denoise,
        disable_pbar=True,
        seed=1,
    )
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
    found = sigmas(noise_steps.remember(models[family]), sampler, scheduler, steps, denoise)
    expected = given(models[family], family, sampler, scheduler, steps, denoise)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_shift_of_the_model_counts_and_percents_are_comfyuis(models):
    shifted = advanced.ModelSamplingSD3().patch(models["Wan"], 3.0)[0]
    run = noise_steps.remember(shifted)
    scheduler = custom.BasicScheduler.execute(shifted, "simple", 6, 0.8).result[0]
    found = noise_steps.steps_of(run, "euler", "simple", 6, 0.8)
    assert [sigma for sigma, _ in found] == pytest.approx(scheduler.tolist())
    sampling_of = shifted.get_model_object("model_sampling")
    for sigma, percent in found[:-1]:
        assert sampling_of.percent_to_sigma(percent / 100) == pytest.approx(sigma, rel=1e-3)


def test_without_a_run_or_its_model_nothing_is_known(models):
    assert noise_steps.steps_of("never", "euler", "normal", 4, 1.0) is None
    assert noise_steps.remember(None) is None
    model = sampling.MODELS["SD1.5"]()
    run = noise_steps.remember(model)
    assert noise_steps.steps_of(run, "euler", "normal", 4, 1.0) is not None
    assert noise_steps.remember(model) != run
    del model
    assert noise_steps.steps_of(run, "euler", "normal", 4, 1.0) is None


@pytest.mark.parametrize(
    "question",
    [("x", "normal", 4, 1.0), ("euler", "x", 4, 1.0), ("euler", "normal", 0, 1.0), ("euler", "normal", 10**6, 1.0)],
)
def test_what_is_no_sampling_is_refused(models, question):
    run = noise_steps.remember(models["SD1.5"])
    with pytest.raises(StrataError):
        noise_steps.steps_of(run, *question)
    with pytest.raises(StrataError, match="kl_optimal has no noise for 1 steps"):
        noise_steps.steps_of(run, "euler", "kl_optimal", 1, 1.0)
    with pytest.raises(StrataError, match="at denoise"):
        noise_steps.steps_of(run, "euler", "normal", 4, 0.0001)


def test_only_the_last_runs_are_remembered(models):
    runs = [noise_steps.remember(models["SD1.5"]) for _ in range(noise_steps.MAX_RUNS + 1)]
    assert noise_steps.steps_of(runs[0], "euler", "normal", 4, 1.0) is None
    assert noise_steps.steps_of(runs[-1], "euler", "normal", 4, 1.0) is not None
