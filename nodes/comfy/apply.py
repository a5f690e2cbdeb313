"""One LoRA onto a MODEL and a CLIP: the way from an opened file to patched clones and the report beside them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...lora_math.blocks import ResolvedWeights
from ...lora_math.errors import StrataError
from . import patch, report
from .block_weights import BlockSpec, layout_for
from .fit import fit
from .library import Lora
from .report import NOTHING, Side
from .targets import Targets, clip_targets, model_targets

OnProblem = Literal["error", "warn"]


@dataclass(frozen=True, eq=False)
class Applied:
    """What a loader hands on. ``model`` and ``clip`` are the inputs themselves where nothing had to change."""

    model: object | None
    clip: object | None
    report: str
    verdict: str
    warned: bool


def apply_lora(
    model,
    clip,
    lora: Lora,
    strength_model: float,
    strength_clip: float,
    on_problem: OnProblem,
    block_weights: BlockSpec | None = None,
) -> Applied:
    """Raises StrataError when the LoRA cannot be used here and ``on_problem`` is "error"; with "warn" nothing is patched then."""
    if model is None and clip is None:
        raise StrataError("Nothing is connected: connect MODEL, CLIP or both to the LoRA Loader.")
    for name, strength in (("strength_model", strength_model), ("strength_clip", strength_clip)):
        if not math.isfinite(strength):
            raise StrataError(f"{name} is {strength}: it must be a number.")
    targets = (None if model is None else model_targets(model), None if clip is None else clip_targets(clip))
    blocks = None
    if block_weights is not None:
        layout = layout_for(*targets)
        blocks = block_weights.read(layout).resolve(layout)
    model_side = _side(lora, targets[0], strength_model, blocks)
    clip_side = _side(lora, targets[1], strength_clip, blocks)
    sides = (model_side, clip_side)
    if strength_model == 0 and strength_clip == 0:
        return Applied(
            model, clip, report.text(lora, *sides, [], False), report.verdict(lora, *sides, [], False), False
        )
    found = report.problems(lora, *sides)
    if found and on_problem == "error":
        raise StrataError("\n".join(found))
    usable = not report.is_misfit(lora, *sides)
    if usable:
        model = _patched(model, lora, model_side)
        clip = _patched(clip, lora, clip_side)
    return Applied(
        model, clip, report.text(lora, *sides, found, usable), report.verdict(lora, *sides, found, usable), bool(found)
    )


def _side(lora: Lora, targets: Targets | None, strength: float, blocks: ResolvedWeights | None) -> Side:
    return NOTHING if targets is None else Side(fit(lora, targets), targets, strength, blocks)


def _patched(target, lora: Lora, side: Side):
    """A clone of a MODEL or CLIP with the LoRA's patches, or the same object when there is nothing to patch."""
    if target is None or side.strength == 0:
        return target
    changes = _changes(side.fit.adapters(without=lora.broken), side)
    if not changes:
        return target
    clone = target.clone()
    patcher = getattr(clone, "patcher", clone)
    before = patcher.patches_uuid
    patch.add(clone, changes)
    # The same LoRA at the same strength on the same model is the same patched model: ComfyUI then has nothing to patch anew.
    patcher.patches_uuid = uuid.uuid5(before, "|".join([lora.identity, repr(side.strength), _identity(side.blocks)]))
    if lora.metadata:
        patcher.set_attachments("lora_metadata", dict(lora.metadata))
    return clone


def _changes(adapters: Mapping, side: Side) -> dict:
    """patch key -> its (coefficient, adapter) in order, for every weight, or part of a weight, that changes at all."""
    found = {}
    for key, terms in adapters.items():
        coefficient = side.coefficient(key if isinstance(key, str) else key[0])
        if coefficient != 0:
            found[key] = [(coefficient, adapter) for adapter in terms]
    return found


def _identity(blocks: ResolvedWeights | None) -> str:
    return "" if blocks is None else str(blocks.weights)
