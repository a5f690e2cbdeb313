"""Strength over time and over prompts: what arrives on a wire, and what it is in a call of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING

import torch

from ...lora_math import schedule
from ...lora_math.errors import StrataError
from ...lora_math.extremes import FURTHEST
from ...lora_math.schedule import Moment, Place, Schedule, Variation
from .internals import find

if TYPE_CHECKING:
    import comfy.hooks

    Time = comfy.hooks.HookKeyframeGroup | Schedule

# Straight lines between so many points are nearer to a smooth curve than a widget can show.
CURVE_POINTS = 101


def read_variation(value) -> Variation:
    """What came over a wire for how a strength varies: this pack's own, a text, ComfyUI's HOOK_KEYFRAMES or CURVE, a list of numbers (one
    for each step). Constant where nothing came. Raises StrataError for anything else."""
    if isinstance(value, Variation):
        return value
    try:
        return Variation(_read_time(value))
    except StrataError as problem:
        text = str(problem)
        raise StrataError(text if "keyframes" in text else f"keyframes: {text}") from None


def _read_time(value) -> Time | None:
    if value is None or isinstance(value, Schedule):
        return value
    if isinstance(value, str):
        return schedule.parse(value)
    if _is_keyframes(value):
        for keyframe in value.keyframes:
            for name in ("strength", "start_percent"):
                number = getattr(keyframe, name)
                if not abs(number) <= FURTHEST:
                    raise StrataError(
                        f"keyframes: a keyframe at {100 * keyframe.start_percent:g} % has {name} {number:g}. "
                        "Give it a number that a LoRA can have (-100 to 100)."
                    )
        return value
    if (isinstance(value, Mapping) and "points" in value) or callable(getattr(value, "interp", None)):
        return _of_curve(value)
    if isinstance(value, Real):
        return schedule.of_steps([_finite(value)])
    if isinstance(value, Sequence) and all(isinstance(each, Real) for each in value):
        if not 1 <= len(value) <= schedule.MAX_POINTS:
            raise StrataError(
                f"keyframes: a list of {len(value)} numbers came. Give one for each step, 1 to {schedule.MAX_POINTS}."
            )
        return schedule.of_steps(map(_finite, value))
    raise StrataError(
        "The keyframes input takes a strength over time: of 'LoRA Strength over Time (Strata)', HOOK_KEYFRAMES, a CURVE, or a list of "
        f"numbers, one for each step; not a {type(value).__name__}."
    )


def _is_keyframes(value) -> bool:
    kind = find("comfy.hooks", "HookKeyframeGroup", "Keyframes of ComfyUI's nodes are not understood.")
    return kind is not None and isinstance(value, kind)


def _of_curve(value) -> Schedule:
    """A CURVE, whose both axes go from 0 to 1: along it the sampling, upwards the strength."""
    try:
        if isinstance(value, Mapping):
            if not value["points"]:
                raise ValueError
            if value.get("interpolation") == "linear":
                return Schedule(tuple((float(x), float(y)) for x, y in value["points"]))
            kind = find("comfy_api.input", "CurveInput", "A CURVE is not understood.")
            value = value if kind is None else kind.from_raw(value)
        steps = [at / (CURVE_POINTS - 1) for at in range(CURVE_POINTS)]
        return Schedule(tuple((x, float(value.interp(x))) for x in steps))
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError):
        raise StrataError(
            "keyframes: this CURVE cannot be read. It has points, each of two numbers from 0 to 1: draw it anew, or write the strength "
            "over time as a text."
        ) from None


def _finite(value: Real) -> float:
    """Raises StrataError."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise StrataError(
            "keyframes: one of its numbers is not finite, or far too large. Give strengths from -100 to 100."
        )
    return number


def furthest(value: Time | None) -> float:
    """The largest absolute strength that it ever has."""
    if value is None:
        return 1.0
    if isinstance(value, Schedule):
        return value.furthest
    return max((abs(keyframe.strength) for keyframe in value.keyframes), default=1.0)


def strength_at(variation: Variation, moment: Moment) -> float:
    """What a strength is multiplied by at one moment of a sampling. Raises StrataError where the moment does not tell it, or the two
    prompts have different strengths."""
    if variation.positive != variation.negative:
        raise StrataError("it acts differently on the positive and the negative prompt, which no file can")
    time = variation.time
    if time is None:
        return variation.positive
    if isinstance(time, Schedule):
        return variation.positive * time.at_moment(moment)
    if moment.unit != "percent":
        raise StrataError("its keyframes count in percent: choose a moment like 50%")
    strength = 1.0
    # In order; before the second one the first one holds.
    for at, keyframe in enumerate(time.keyframes):
        if at == 0 or keyframe.start_percent <= moment.place:
            strength = keyframe.strength
    return variation.positive * strength


class Clock:
    """The strengths over time of one sampling run, by what ComfyUI says of each call of the model."""

    def __init__(self, times: Sequence[Time | None], base_model):
        sampling = base_model.model_sampling
        self.places = Places(sampling.percent_to_sigma)
        self.times = [value if value is None or isinstance(value, Schedule) else value.clone() for value in times]
        self.keyframes = [value for value in self.times if value is not None and not isinstance(value, Schedule)]
        for group in self.keyframes:
            group.reset()
            group.initialize_timesteps(base_model)
        self.last = Place(0.0, 0.0, float(sampling.sigma_max))
        self.is_flow = self.last.sigma <= 1

    def strengths(self, options: Mapping) -> list[float]:
        """One for each LoRA. Without word of where the sampling is, those of the call before."""
        if "sigmas" in options and "sample_sigmas" in options:
            sigma = float(options["sigmas"].max())
            self.last = self.places.of(sigma, options["sample_sigmas"])
            # ComfyUI's own hooks follow them in the same way.
            for group in self.keyframes:
                group.prepare_current_keyframe(sigma, options)
        return [self._now(value) for value in self.times]

    @property
    def timestep(self) -> float:
        """Of the last call: how noisy the picture is, as trainers count it, from 1000 (noise alone) down to 0.

        Flow models are trained on every noise from 1 to 0, the others on the whole steps 0 to 999, which ComfyUI's percents go along.
        """
        return 1000 * self.last.sigma if self.is_flow else float(round(999 * (1 - self.last.percent)))

    def _now(self, value: Time | None) -> float:
        if value is None:
            return 1.0
        return value.at(self.last) if isinstance(value, Schedule) else float(value.strength)


class Places:
    """Where a noise lies in a sampling."""

    def __init__(self, percent_to_sigma: Callable[[float], float]):
        self.percent_to_sigma = percent_to_sigma
        self.known: dict[tuple[float, int], Place] = {}

    def of(self, sigma: float, sigmas: torch.Tensor) -> Place:
        """sigmas: those of the steps of this run, in order."""
        key = sigma, len(sigmas)
        if key not in self.known:
            self.known[key] = Place(self.percent(sigma), _step(sigma, sigmas.tolist()), sigma)
        return self.known[key]

    def percent(self, sigma: float, halvings: int = 50) -> float:
        """The inverse of ComfyUI's ``percent_to_sigma``, which falls; halvings: each makes it twice as near."""
        low, high = 0.0, 1.0
        for _ in range(halvings):
            middle = (low + high) / 2
            low, high = (middle, high) if float(self.percent_to_sigma(middle)) >= sigma else (low, middle)
        return round(high, 6)


def _step(sigma: float, sigmas: Sequence[float]) -> float:
    """Steps from the beginning; a fraction for a noise that a sampler asks about within a step."""
    for at, (start, end) in enumerate(pairwise(sigmas)):
        if sigma > end * (1 + 1e-6) or at == len(sigmas) - 2:
            share = (start - sigma) / (start - end) if start > end else 0.0
            return at + min(max(share, 0.0), 1.0) * (share > 1e-6)
    return 0.0


class Prompts:
    """Which parts of a batch are the negative prompt. ComfyUI numbers them in the order that its guider asks for: 1 is the negative one,
    but 0 in "Dual CFG Guider". The guider's conditionings have ids, and tell which number is theirs."""

    def __init__(self, guider):
        self.guider = guider
        self.is_negative: dict[int, bool] = {}

    def rows(self, options: Mapping) -> list[bool]:
        """For each part of the batch in a call of the model, whether it is the negative prompt."""
        sides, ids = options.get("cond_or_uncond") or [], options.get("uuids") or []
        conditionings = getattr(self.guider, "conds", None) or {}
        negative = {each.get("uuid") for each in conditionings.get("negative", ())}
        others = {each.get("uuid") for name, some in conditionings.items() if name != "negative" for each in some}
        for side, id in zip(sides, ids, strict=False):
            # What ComfyUI adds for an area of the other prompt has that one's id.
            if (id in negative) != (id in others):
                self.is_negative[side] = id in negative
        return [self.is_negative.get(side, side == 1) for side in sides]


def of_samples(
    strengths: Sequence[float], factors: Sequence[tuple[float, float]], negative: Sequence[bool], samples: int
):
    """[groups], or [samples, groups] where the samples of a batch differ: strengths over time, times those of the prompts.

    factors: (positive, negative) for each group; negative: for each equal part of the batch.
    """
    rows = [
        tuple(s * pair[is_negative] for s, pair in zip(strengths, factors, strict=True)) for is_negative in negative
    ]
    if not rows:
        rows = [tuple(s * pair[0] for s, pair in zip(strengths, factors, strict=True))]
    if len(set(rows)) == 1:
        return torch.tensor(rows[0], dtype=torch.float32)
    return torch.tensor(rows, dtype=torch.float32).repeat_interleave(samples // len(rows), 0)
