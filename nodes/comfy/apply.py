"""One LoRA onto a MODEL and a CLIP: the way from an opened file to patched clones and the report beside them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import comfy.hooks

from ...lora_math.blocks import ResolvedWeights
from ...lora_math.errors import StrataError
from . import live, patch, report
from .block_weights import BlockSpec, layout_for
from .fit import fit
from .library import Lora
from .live_layers import split
from .report import NOTHING, Side
from .targets import Targets, clip_targets, model_targets

OnProblem = Literal["error", "warn"]
Apply = Literal["patch", "live"]


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
    apply: Apply = "patch",
    keyframes: comfy.hooks.HookKeyframeGroup | None = None,
) -> Applied:
    """Raises StrataError when the LoRA cannot be used here and ``on_problem`` is "error"; with "warn" nothing is patched then.

    keyframes: the model's strength over time; what it can change is live whatever ``apply`` says.
    """
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
    notes = []
    if usable:
        if apply == "live" or keyframes is not None:
            model, notes = _live(model, lora, model_side, keyframes)
        else:
            model = _patched(model, lora, model_side)
        clip = _patched(clip, lora, clip_side)
    text = "\n".join([report.text(lora, *sides, found, usable), *notes])
    return Applied(model, clip, text, report.verdict(lora, *sides, found, usable), bool(found))


def _side(lora: Lora, targets: Targets | None, strength: float, blocks: ResolvedWeights | None) -> Side:
    return NOTHING if targets is None else Side(fit(lora, targets), targets, strength, blocks)


def _patched(target, lora: Lora, side: Side):
    """A clone of a MODEL or CLIP with the LoRA's patches, or the same object when there is nothing to patch."""
    changes = _changes(lora, side)
    if target is None or not changes:
        return target
    clone = target.clone()
    _patch(clone, changes, _identity(lora, side))
    if lora.metadata:
        getattr(clone, "patcher", clone).set_attachments("lora_metadata", dict(lora.metadata))
    return clone


def _live(model, lora: Lora, side: Side, keyframes: comfy.hooks.HookKeyframeGroup | None):
    """(a clone of a MODEL with the LoRA beside its layers, lines for the report). What cannot be live is patched."""
    changes = _changes(lora, side)
    if model is None or not changes:
        return model, []
    if live.is_compiled(model):
        if keyframes is not None:
            raise StrataError(f"{live.COMPILED} Disconnect the keyframes or remove torch.compile.")
        return _patched(model, lora, side), [f"Patched, not live. {live.COMPILED}"]
    ours, rest, reasons = split(model, changes)
    clone = model.clone()
    if ours:
        live.attach(clone, live.LiveLora(ours, _identity(lora, side), keyframes))
    if rest:
        _patch(clone, rest, f"{_identity(lora, side)}|rest")
    return clone, report.live_lines(len(ours), reasons, keyframes is not None)


def _patch(clone, changes: Mapping, identity: str) -> None:
    patcher = getattr(clone, "patcher", clone)
    before = patcher.patches_uuid
    patch.add(clone, changes)
    # The same LoRA at the same strength on the same model is the same patched model: ComfyUI then has nothing to patch anew.
    patcher.patches_uuid = uuid.uuid5(before, identity)


def _changes(lora: Lora, side: Side) -> dict:
    """patch key -> its (coefficient, adapter) in order, for every weight, or part of a weight, that changes at all."""
    found = {}
    for key, terms in side.fit.adapters(without=lora.broken).items():
        coefficient = side.coefficient(key if isinstance(key, str) else key[0])
        if coefficient != 0:
            found[key] = [(coefficient, adapter) for adapter in terms]
    return found


def _identity(lora: Lora, side: Side) -> str:
    """Differs for everything that makes a patch differ."""
    return "|".join([lora.identity, repr(side.strength), "" if side.blocks is None else str(side.blocks.weights)])
