"""The noise of a sampler's steps, as ComfyUI makes them for the model that a node gave in a run."""

from __future__ import annotations

import math
import threading
import uuid
from collections import OrderedDict
from weakref import ref

import torch

from ...lora_math.errors import StrataError
from .internals import need
from .live_time import Places

MAX_RUNS = 256
# The most steps of a whole sampling that are counted: no sampler takes so many.
MAX_STEPS = 10_000
FEATURE = "The noise under a strength over time"

_lock = threading.Lock()
# Of a run of a node -> how its model counts noise, for as long as that model is there. Two workflows may have nodes of one id.
_models: OrderedDict[str, ref] = OrderedDict()


def remember(model) -> str | None:
    """What the run of a node that hands this MODEL on is known by from now on; None where it hands on none."""
    if model is None:
        return None
    run = uuid.uuid4().hex
    with _lock:
        _models[run] = ref(model.get_model_object("model_sampling"))
        while len(_models) > MAX_RUNS:
            _models.popitem(last=False)
    return run


def steps_of(run: str, sampler: str, scheduler: str, steps: int, denoise: float) -> list[tuple[float, float]] | None:
    """(noise, percent of the sampling from 0 to 100) at the beginning of each step and at the end of the last one; None where that run
    is not known, or its model is gone. Raises StrataError for a sampler that ComfyUI does not know, and for what it does not do."""
    with _lock:
        found = _models.get(run)
    sampling = None if found is None else found()
    if sampling is None:
        return None
    kind = need("comfy.samplers", "KSampler", FEATURE)
    if sampler not in kind.SAMPLERS or scheduler not in kind.SCHEDULERS:
        raise StrataError(f"This ComfyUI has no scheduler {scheduler[:80]!r} for a sampler {sampler[:80]!r}.")
    if not 1 <= steps <= MAX_STEPS or not 0 < denoise <= 1 or steps / denoise > MAX_STEPS:
        raise StrataError(f"{steps} steps at denoise {denoise:g} are no sampling that is drawn here.")
    sigmas = kind(_Noise(sampling), steps, torch.device("cpu"), sampler, scheduler, denoise).sigmas.tolist()
    # Some schedulers have none for a single step.
    if not all(map(math.isfinite, sigmas)):
        raise StrataError(f"The scheduler {scheduler} has no noise for {steps} steps.")
    places = Places(sampling.percent_to_sigma)
    return [(sigma, 100 * places.percent(sigma)) for sigma in sigmas]


class _Noise:
    """All that ComfyUI's KSampler asks of a model for its steps."""

    def __init__(self, sampling):
        self.sampling = sampling

    def get_model_object(self, name: str):
        return self.sampling
