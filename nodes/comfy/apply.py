"""LoRAs onto a MODEL and a CLIP: the way from a name to patched clones and the report beside them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...lora_math.blocks import ResolvedWeights
from ...lora_math.errors import StrataError
from ...lora_math.triggers import trigger_words
from . import report
from .block_weights import BlockSpec, layout_for
from .fit import fit
from .library import CACHE, Lora
from .patch import StrataPatch
from .report import NOTHING, Side
from .stack import StackEntry
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
    trigger_words: str = ""

    def ui(self) -> dict[str, list]:
        """What the browser is told beside the outputs."""
        return {"strata_verdict": [self.verdict], "strata_report": [self.report], "strata_warned": [self.warned]}


def apply_stack(model, clip, entries: Sequence[StackEntry], on_problem: OnProblem) -> Applied:
    """Every LoRA of a stack in order. Raises StrataError as ``apply_named`` does."""
    results = []
    for entry in entries:
        applied = apply_named(model, clip, entry, on_problem)
        model, clip = applied.model, applied.clip
        results.append(applied)
    if not results:
        return Applied(model, clip, "No LoRA: nothing changed", "No LoRA: nothing changed", False)
    words = dict.fromkeys(word for applied in results for word in applied.trigger_words.split(", ") if word)
    warned = [applied for applied in results if applied.warned]
    verdict = (warned or results)[0].verdict if len(results) == 1 or warned else f"{len(results)} LoRAs applied"
    return Applied(model, clip, "\n\n".join(a.report for a in results), verdict, bool(warned), ", ".join(words))


def apply_named(model, clip, entry: StackEntry, on_problem: OnProblem) -> Applied:
    """One LoRA by its name. Raises StrataError when the file or its fit is bad and ``on_problem`` is "error"; with "warn" the report
    says what is wrong and nothing is patched."""
    name, strength_model, strength_clip = entry
    try:
        lora = CACHE.get(name)
    except StrataError as problem:
        if on_problem == "error":
            raise
        return Applied(model, clip, str(problem), str(problem), True)
    return apply_lora(model, clip, lora, strength_model, strength_clip, on_problem, entry.block_weights)


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
        return _applied(model, clip, lora, sides, [], False)
    found = report.problems(lora, *sides)
    if found and on_problem == "error":
        raise StrataError("\n".join(found))
    usable = not report.is_misfit(lora, *sides)
    if usable:
        model = _patched(model, lora, model_side)
        clip = _patched(clip, lora, clip_side)
    return _applied(model, clip, lora, sides, found, usable)


def _applied(model, clip, lora: Lora, sides: tuple[Side, Side], found: list[str], used: bool) -> Applied:
    text, verdict = report.text(lora, *sides, found, used), report.verdict(lora, *sides, found, used)
    return Applied(model, clip, text, verdict, bool(found), ", ".join(trigger_words(lora.path, lora.metadata)))


def _side(lora: Lora, targets: Targets | None, strength: float, blocks: ResolvedWeights | None) -> Side:
    return NOTHING if targets is None else Side(fit(lora, targets), targets, strength, blocks)


def _patched(target, lora: Lora, side: Side):
    """A clone of a MODEL or CLIP with the LoRA's patches, or the same object when there is nothing to patch."""
    if target is None or side.strength == 0:
        return target
    patches = _patches(side.fit.adapters(without=lora.broken), side)
    if not patches:
        return target
    clone = target.clone()
    patcher = getattr(clone, "patcher", clone)
    before = patcher.patches_uuid
    clone.add_patches(patches)
    # The same LoRA at the same strength on the same model is the same patched model: ComfyUI then has nothing to patch anew.
    patcher.patches_uuid = uuid.uuid5(before, "|".join([lora.identity, repr(side.strength), _identity(side.blocks)]))
    if lora.metadata:
        patcher.set_attachments("lora_metadata", dict(lora.metadata))
    return clone


def _patches(adapters: Mapping, side: Side) -> dict:
    """One patch per weight, or part of a weight, that changes at all."""
    found = {}
    for key, terms in adapters.items():
        is_part = isinstance(key, tuple)
        coefficient = side.coefficient(key[0] if is_part else key)
        if coefficient != 0:
            found[key] = StrataPatch.of(((coefficient, adapter) for adapter in terms), is_part and len(key) > 2)
    return found


def _identity(blocks: ResolvedWeights | None) -> str:
    return "" if blocks is None else str(blocks.weights)
