"""The noise of a sampler's steps, as ComfyUI makes them for the model that a node gave in a run.

What a sampler or a node of SIGMAS makes of its settings is asked of that very node: only of ComfyUI's own, which are numbers in and
numbers out. What depends on anything else than settings and the model is not known here.
"""

from __future__ import annotations

import math
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from weakref import ref

import torch

from ...lora_math.errors import StrataError
from .internals import need
from .live_time import Places

MAX_RUNS = 256
# The most steps of a whole sampling that are drawn. A place among them is found to a millionth.
MAX_STEPS, HALVINGS = 1000, 20
# The most nodes between a scheduler and a sampler, and the longest list of sigmas that a person types.
MAX_NODES = 8
MAX_TEXT = 2000
FEATURE = "The noise under a strength over time"
# The nodes that are followed. Each makes its sigmas of numbers, choices and texts, of a MODEL by nothing but how that counts noise, and of
# the SIGMAS of the node before. Whatever else may be wired into one is left out here, and the page does not ask where it is wired.
FOLLOWED = frozenset(
    {
        "AlignYourStepsScheduler",
        "BasicScheduler",
        "BetaSamplingScheduler",
        "ExponentialScheduler",
        "ExtendIntermediateSigmas",
        "FlipSigmas",
        "Flux2Scheduler",
        "GITSScheduler",
        "Ideogram4Scheduler",
        "KarrasScheduler",
        "LTXVScheduler",
        "LaplaceScheduler",
        "ManualSigmas",
        "OptimalStepsScheduler",
        "PolyexponentialScheduler",
        "SDTurboScheduler",
        "SetFirstSigma",
        "SplitSigmas",
        "SplitSigmasDenoise",
        "VPScheduler",
    }
)
# The nodes that sample by a scheduler of their own.
SAMPLERS = frozenset({"KSampler", "KSamplerAdvanced"})

_lock = threading.Lock()
# Of a run of a node -> how its model counts noise, for as long as that model is there. Two workflows may have nodes of one id.
_models: OrderedDict[str, ref] = OrderedDict()


class Made(NamedTuple):
    """A node that makes sigmas: its type, which of its outputs is taken, its settings by name."""

    node: str
    slot: int
    values: Mapping[str, object]


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


def steps_of(run: str, way: Sequence[Made]) -> list[tuple[float, float]] | None:
    """(noise, percent of the sampling from 0 to 100) at the beginning of each step and at the end of the last one.

    way: the nodes that the sigmas come through, in the order in which they run; a KSampler is alone.

    None where that run is not known, its model is gone, a node is none of those that are followed, or one of its settings is not told.
    Raises StrataError for settings that the node does not have, and for those with which it makes nothing.
    """
    with _lock:
        found = _models.get(run)
    sampling = None if found is None else found()
    if sampling is None or not 1 <= len(way) <= MAX_NODES:
        return None
    try:
        if len(way) == 1 and way[0].node in SAMPLERS:
            sigmas = _of_sampler(sampling, way[0])
        elif all(each.node in FOLLOWED for each in way):
            sigmas = None
            for each in way:
                sigmas = _of_node(sampling, each, sigmas)
        else:
            return None
    except _NotTold:
        return None
    if not isinstance(sigmas, torch.Tensor) or sigmas.ndim != 1:
        raise StrataError(f"{way[-1].node} makes no list of sigmas.")
    numbers = sigmas.tolist()
    # Some schedulers have none for a single step.
    if not all(map(math.isfinite, numbers)):
        raise StrataError(f"The scheduler of {way[-1].node} has no noise for these settings.")
    places = Places(sampling.percent_to_sigma)
    return [(sigma, 100 * places.percent(sigma, HALVINGS)) for sigma in numbers]


def _of_sampler(sampling, made: Made) -> torch.Tensor:
    """What a KSampler gives to its sampler."""
    node = made.node
    kind = need("comfy.samplers", "KSampler", FEATURE)
    names = ("steps", "sampler_name", "scheduler")
    names += ("denoise",) if node == "KSampler" else ("start_at_step", "end_at_step", "return_with_leftover_noise")
    asked = _settings(made, _inputs(_class(node)), names)
    steps, denoise = asked["steps"], asked.get("denoise", 1.0)
    if not denoise or steps / denoise > MAX_STEPS:
        raise StrataError(f"{steps} steps at denoise {denoise:g} are no sampling that is drawn here.")
    cpu = torch.device("cpu")
    sigmas = kind(_Noise(sampling), steps, cpu, asked["sampler_name"], asked["scheduler"], denoise).sigmas
    if node == "KSampler":
        return sigmas
    first, last = asked["start_at_step"], asked["end_at_step"]
    if last < len(sigmas) - 1:
        sigmas = sigmas[: last + 1].clone()
        if asked["return_with_leftover_noise"] != "enable":
            sigmas[-1] = 0
    # One that begins behind its end samples nothing.
    return sigmas[first:] if first < len(sigmas) - 1 else sigmas[:0]


def _of_node(sampling, made: Made, sigmas: torch.Tensor | None) -> torch.Tensor:
    """What a node makes of its settings and of the sigmas before it."""
    kind = _class(made.node)
    inputs = _inputs(kind)
    values = _settings(made, inputs, [name for name, (of, _) in inputs.items() if _is_setting(of)])
    steps = values.get("steps", 1)
    before = 1 if sigmas is None else max(len(sigmas), 1)
    if steps * before / (values.get("denoise") or 1.0) > MAX_STEPS:
        raise StrataError(f"{made.node} makes more steps than are drawn here.")
    for name, (of, _) in inputs.items():
        if of == "MODEL":
            values[name] = _Noise(sampling)
        elif of == "SIGMAS":
            if sigmas is None:
                raise StrataError(f"{made.node} has no sigmas.")
            values[name] = sigmas
    try:
        given = getattr(kind(), kind.FUNCTION)(**values)
        return getattr(given, "result", given)[made.slot]
    # What stops the node in a run, with such settings, is no fault of the page that shows it.
    except Exception as problem:
        raise StrataError(f"{made.node} makes no sigmas of these settings: {problem}") from None


def _class(node: str):
    """ComfyUI's own node of that name. Raises StrataError where it has none."""
    kind = need("nodes", "NODE_CLASS_MAPPINGS", FEATURE).get(node)
    # Another pack's node of that name is not asked.
    if kind is None or not getattr(kind, "RELATIVE_PYTHON_MODULE", "comfy_extras").startswith("comfy_extras"):
        raise StrataError(f"This ComfyUI has no node {node}.")
    return kind


def _inputs(kind) -> dict[str, tuple[object, Mapping]]:
    """name -> (type, or the list of choices; options) of a node's inputs."""
    groups = kind.INPUT_TYPES()
    given = {**groups.get("required", {}), **groups.get("optional", {})}
    return {name: (of, rest[0] if rest else {}) for name, (of, *rest) in given.items()}


def _is_setting(of) -> bool:
    return isinstance(of, (list, tuple)) or of in ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")


def _settings(made: Made, inputs: Mapping, names: Sequence[str]) -> dict:
    """The named settings, as ComfyUI checks them before a run. Raises StrataError for one that the input does not take, and _NotTold."""
    found = {}
    for name in names:
        of, options = inputs.get(name, (None, {}))
        value = made.values.get(name)
        if value is None:
            raise _NotTold
        if of in ("INT", "FLOAT"):
            whole = of == "INT"
            fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            fits = fits and options.get("min", -math.inf) <= value <= options.get("max", math.inf)
            value = value if whole or not fits else float(value)
        elif of == "BOOLEAN":
            fits = isinstance(value, bool)
        elif of == "STRING":
            fits = isinstance(value, str) and len(value) <= MAX_TEXT
        else:
            choices = options.get("options", ()) if of == "COMBO" else of or ()
            fits = isinstance(value, str) and value in choices
        if not fits:
            raise StrataError(f"{name} of {made.node} cannot be {str(value)[:80]!r}.")
        found[name] = value
    return found


class _NotTold(Exception):
    """A setting comes over a wire, so that it is known in the run only."""


class _Noise:
    """All that ComfyUI's samplers and schedulers ask of a model for their steps."""

    def __init__(self, sampling):
        self.sampling = sampling

    def get_model_object(self, name: str):
        return self.sampling
