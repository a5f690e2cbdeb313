"""LoRAs onto a MODEL and a CLIP: the way from a name to patched clones and the report beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..lora_math.blocks import ResolvedWeights
from ..lora_math.errors import StrataError
from ..lora_math.reading.trigger_words import trigger_words
from .comfy import live, patch
from .comfy.library import CACHE, Lora
from .comfy.live_layers import split
from .comfy.targets import Targets, clip_targets, model_targets
from .fitting.block_spec import BlockSpec, layout_for, resolved
from .fitting.fit import fit
from .fitting.side import NOTHING, Side
from .report import lora as report
from .stack import StackEntry

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
    trigger_words: str = ""

    def ui(self) -> dict[str, list]:
        """What the browser is told beside the outputs."""
        return {"strata_verdict": [self.verdict], "strata_report": [self.report], "strata_warned": [self.warned]}


def apply_stack(
    model, clip, entries: Sequence[StackEntry], on_problem: OnProblem, apply: Apply = "patch", node: str | None = None
) -> Applied:
    """Every LoRA of a stack in order. Raises StrataError as ``apply_named`` does.

    node: the id of the node that does it, which live LoRAs have something to say on while the model samples.
    """
    results = []
    for entry in entries:
        applied = apply_named(model, clip, entry, on_problem, apply, node)
        model, clip = applied.model, applied.clip
        results.append(applied)
    if not results:
        return Applied(model, clip, "No LoRA: nothing changed", "No LoRA: nothing changed", False)
    words = dict.fromkeys(word for applied in results for word in applied.trigger_words.split(", ") if word)
    warned = [applied for applied in results if applied.warned]
    verdict = (warned or results)[0].verdict if len(results) == 1 or warned else f"{len(results)} LoRAs applied"
    return Applied(model, clip, "\n\n".join(a.report for a in results), verdict, bool(warned), ", ".join(words))


def apply_named(
    model, clip, entry: StackEntry, on_problem: OnProblem, apply: Apply = "patch", node: str | None = None
) -> Applied:
    """One LoRA by its name. Raises StrataError when the file or its fit is bad and ``on_problem`` is "error"; with "warn" the report
    says what is wrong and nothing is patched."""
    name, strength_model, strength_clip = entry
    try:
        lora = CACHE.get(name)
    except StrataError as problem:
        if on_problem == "error":
            raise
        return Applied(model, clip, str(problem), str(problem), True)
    return apply_lora(
        model, clip, lora, strength_model, strength_clip, on_problem, entry.block_weights, apply, entry.keyframes, node
    )


def apply_lora(
    model,
    clip,
    lora: Lora,
    strength_model: float,
    strength_clip: float,
    on_problem: OnProblem,
    block_weights: BlockSpec | None = None,
    apply: Apply = "patch",
    keyframes=None,
    node: str | None = None,
) -> Applied:
    """Raises StrataError when the LoRA cannot be used here and ``on_problem`` is "error"; with "warn" nothing is patched then.

    keyframes: a HookKeyframeGroup, the model's strength over time; what it can change is live whatever ``apply`` says.
    """
    for name, strength in (("strength_model", strength_model), ("strength_clip", strength_clip)):
        if not math.isfinite(strength):
            raise StrataError(f"{name} is {strength}: it must be a number.")
    targets = (None if model is None else model_targets(model), None if clip is None else clip_targets(clip))
    blocks = None
    if block_weights is not None:
        for target, side in zip((model, clip), targets, strict=True):
            if side is not None:
                side.measure(getattr(target, "patcher", target))
        layout = layout_for(*targets)
        blocks = resolved(block_weights, layout)
    model_side = _side(lora, targets[0], strength_model, blocks)
    clip_side = _side(lora, targets[1], strength_clip, blocks)
    sides = (model_side, clip_side)
    if strength_model == 0 and strength_clip == 0:
        return _applied(model, clip, lora, sides, [], False)
    found = report.problems(lora, *sides)
    if found and on_problem == "error":
        raise StrataError("\n".join(found))
    usable = not report.is_misfit(lora, *sides)
    notes = []
    if usable:
        if apply == "live" or keyframes is not None:
            model, notes = _live(model, lora, model_side, keyframes, node)
        else:
            changes = _changes(lora, model_side)
            model = _patched(model, lora, model_side, changes)
            notes = report.rounded_lines(changes, model_side.targets)
        clip = _patched(clip, lora, clip_side, _changes(lora, clip_side))
    return _applied(model, clip, lora, sides, found, usable, notes)


def _applied(
    model, clip, lora: Lora, sides: tuple[Side, Side], found: list[str], used: bool, notes: Sequence[str] = ()
) -> Applied:
    text = "\n".join([report.text(lora, *sides, found, used), *notes])
    verdict, words = report.verdict(lora, *sides, found, used), ", ".join(trigger_words(lora.path, lora.metadata))
    return Applied(model, clip, text, verdict, bool(found), words)


def _side(lora: Lora, targets: Targets | None, strength: float, blocks: ResolvedWeights | None) -> Side:
    return NOTHING if targets is None else Side(fit(lora, targets), targets, strength, blocks)


def _patched(target, lora: Lora, side: Side, changes: Mapping):
    """A clone of a MODEL or CLIP with the LoRA's patches, or the same object when there is nothing to patch."""
    if target is None or not changes:
        return target
    clone = target.clone()
    patch.add(clone, changes, lora.name, _identity(lora, side))
    if lora.metadata:
        patch.attach_metadata(clone, lora.metadata)
    return clone


def _live(model, lora: Lora, side: Side, keyframes, node: str | None):
    """(a clone of a MODEL with the LoRA beside its layers, lines for the report). What cannot be live is patched."""
    changes = _changes(lora, side)
    if model is None or not changes:
        return model, []
    if live.is_compiled(model):
        if keyframes is not None:
            raise StrataError(f"{live.COMPILED} Disconnect the keyframes or remove torch.compile.")
        return _patched(model, lora, side, changes), [f"Patched, not live. {live.COMPILED}"]
    ours, rest, reasons = split(model, changes)
    clone = model.clone()
    if ours:
        live.attach(clone, live.LiveLora(ours, _identity(lora, side), keyframes, lora.name, node))
    if rest:
        patch.add(clone, rest, lora.name, f"{_identity(lora, side)}|rest")
    return clone, report.live_lines(len(ours), reasons, keyframes is not None)


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
