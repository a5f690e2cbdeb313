"""One open LoRA onto clones of a MODEL and a CLIP: what of it changes what, beside the layers or as patches, and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..lora_math.blocks import ResolvedWeights
from ..lora_math.errors import StrataError
from ..lora_math.extremes import FURTHEST
from ..lora_math.reading.rank_mask import rank_mask
from ..lora_math.schedule import Schedule, Variation
from .comfy import live, patch
from .comfy.beginnings import begun
from .comfy.library import Lora
from .comfy.live_layers import split
from .comfy.live_regions import Where, where_of
from .comfy.live_time import read_variation
from .comfy.shared_norms import completed
from .comfy.targets import Key, Targets, clip_targets, model_targets, taken_apart
from .fitting.block_spec import layout_for, resolved
from .fitting.fit import fit
from .fitting.side import NOTHING, Side
from .report import lora as report
from .report import ways
from .stack import StackEntry

OnProblem = Literal["error", "warn"]
Apply = Literal["auto", "patch", "live"]
CONSTANT = Variation()


@dataclass(frozen=True, eq=False)
class Applied:
    """What a loader hands on. ``model`` and ``clip`` are the inputs themselves where nothing had to change."""

    model: object | None
    clip: object | None
    report: str
    verdict: str
    warned: bool
    trigger_words: str = ""
    # The LoRAs of a stack one by one, without their models.
    parts: tuple[Applied, ...] = ()
    # False where on_problem is "warn" and the LoRA was left out.
    used: bool = True

    def ui(self) -> dict[str, list]:
        """What the browser is told beside the outputs."""
        return {"strata_verdict": [self.verdict], "strata_report": [self.report], "strata_warned": [self.warned]}


class Changing:
    """A MODEL or CLIP that is cloned before its first change and never again: many LoRAs are one clone and one round of patching.
    ``given`` may be None. value: what was given or the clone, patches that ``finish`` adds not in it yet."""

    def __init__(self, given):
        self.given = self.value = given
        self._patches: list[patch.Changes] = []

    def clone(self):
        """The clone to change."""
        if self.value is self.given:
            self.value = self.given.clone()
        return self.value

    def patch(self, changes: Mapping, lora: Lora, identity: str) -> None:
        self._patches.append(patch.Changes(changes, lora.name, identity, lora.largest))

    def finish(self):
        """What was given with all its changes, or the same object where there are none."""
        if self._patches:
            patch.add_all(self.clone(), self._patches)
            self._patches = []
        return self.value


def apply_lora(
    models: Changing,
    clips: Changing,
    lora: Lora,
    entry: StackEntry,
    on_problem: OnProblem,
    apply: Apply,
    node: str | None,
) -> Applied:
    """lora: the entry's, opened. An entry's keyframes and mask are live whatever ``apply`` says, where they can be."""
    _, strength_model, strength_clip = entry
    for name, strength in (("strength_model", strength_model), ("strength_clip", strength_clip)):
        if not math.isfinite(strength):
            raise StrataError(f"{name} is {strength}: it must be a number.")
        if abs(strength) > FURTHEST:
            raise StrataError(
                f"{name} is {strength:g}, far beyond what any LoRA can have: use a number from -100 to 100."
            )
    variation, where = read_variation(entry.keyframes), where_of(entry.mask)
    if variation.constant is not None:
        strength_model, variation = strength_model * variation.constant, CONSTANT
    model, clip = models.given, clips.given
    targets = (None if model is None else model_targets(model), None if clip is None else clip_targets(clip))
    blocks = None
    if entry.block_weights is not None:
        for target, side in zip((model, clip), targets, strict=True):
            if side is not None:
                side.measure(target)
        layout = layout_for(*targets)
        blocks = resolved(entry.block_weights, layout)
    model_side = _side(lora, targets[0], strength_model, blocks)
    if where is not None and not where.on_text and not where.pictures.any():
        model_side = replace(model_side, hidden=True)
    clip_side = _side(lora, targets[1], strength_clip, blocks)
    sides = (model_side, clip_side)
    if strength_model == 0 and strength_clip == 0:
        return _applied(lora, sides, [], False)
    misfit = report.misfit(lora, *sides)
    found = report.problems(lora, misfit)
    if found and on_problem == "error":
        raise StrataError("\n".join(found))
    notes = []
    if misfit is None:
        try:
            changes = _changes(lora, model_side, models.given)
            of_clip = _changes(lora, clip_side, clips.given)
        except StrataError as problem:
            if on_problem == "error":
                raise
            return _applied(lora, sides, [*found, str(problem)], False)
        notes = _on_model(models, lora, model_side, changes, apply, variation, node, where)
        if variation != CONSTANT and clip_side.fit.pieces and strength_clip != 0:
            notes.append("Text encoders: at constant strength, as they run once, before the sampling")
        if where is not None and clip_side.fit.pieces and strength_clip != 0:
            notes.append("Text encoders: without the mask, as words have no place in the picture")
        if _varies(of_clip):
            notes.append("Text encoders: with all rank columns, as they run once, before the sampling")
        _patched(clips, lora, clip_side, _still(of_clip))
    return _applied(lora, sides, found, misfit is None, notes)


def _applied(lora: Lora, sides: tuple[Side, Side], found: list[str], used: bool, notes: Sequence[str] = ()) -> Applied:
    verdict, told = report.told(lora, *sides, found, used)
    text, words = "\n".join([verdict, *told, *notes]), ", ".join(lora.trigger_words)
    warned = bool(found) or report.second_model(lora, *sides) is not None
    return Applied(None, None, text, verdict, warned, words, used=used or not found)


def _side(lora: Lora, targets: Targets | None, strength: float, blocks: ResolvedWeights | None) -> Side:
    return NOTHING if targets is None else Side(fit(lora, targets), targets, strength, blocks)


def _on_model(
    target: Changing,
    lora: Lora,
    side: Side,
    changes: Mapping,
    apply: Apply,
    variation: Variation,
    node: str | None,
    where: Where | None,
) -> list[str]:
    """The LoRA on a MODEL, as ``apply`` says; lines for the report.

    auto: by the model and the settings alone, so that the same workflow gives the same picture.
    """
    if target.given is None or not changes:
        return []
    if apply == "live" or variation != CONSTANT or where is not None or _varies(changes):
        return _live(target, lora, side, changes, variation, node, where)
    coarse = {}
    # Whether a model is compiled takes a look at all its modules: last.
    if apply == "auto" and side.targets.coarse and not live.is_compiled(target.given):
        coarse = {key: terms for key, terms in changes.items() if taken_apart(key)[0] in side.targets.coarse}
        coarse, _, _ = split(target.given, coarse) if coarse else ({}, {}, {})
    if coarse:
        _attach(target, lora, live.LiveLora(coarse, f"{_identity(lora, side)}|coarse", None, lora.name, node))
    rest = {key: terms for key, terms in changes.items() if key not in coarse}
    cost = _cost(coarse, side.targets) if coarse else None
    lines = ways.auto_lines(len(coarse), len(rest), cost) if apply == "auto" else []
    return [*lines, *_behind_live(target, lora, side, rest, node)]


def _live(
    target: Changing,
    lora: Lora,
    side: Side,
    changes: Mapping,
    variation: Variation,
    node: str | None,
    where: Where | None,
) -> list[str]:
    """The LoRA beside the layers of a MODEL; lines for the report. What cannot be live is patched."""
    varies, of_itself = variation != CONSTANT, _varies(changes)
    if live.is_compiled(target.given):
        if of_itself:
            raise StrataError(
                f"{lora.name} is a {_kind(changes)}, another LoRA at each step, which no patch can be. {live.COMPILED} "
                "Remove torch.compile."
            )
        if varies:
            raise StrataError(f"{live.COMPILED} Disconnect the keyframes or remove torch.compile.")
        if where is not None:
            raise StrataError(f"{live.COMPILED} Disconnect the mask or remove torch.compile.")
        _patched(target, lora, side, changes)
        return [f"Patched, not live. {live.COMPILED}"]
    ours, rest, reasons = split(target.given, changes)
    if _varies(rest):
        reason, names = next(iter(reasons.items()))
        raise StrataError(
            f"{lora.name} is a {_kind(rest)}, another LoRA at each step, and {names[0]} can only be patched ({reason}), which stays as it "
            "is all the time. Use another copy of the model, in 16 bits, or take this LoRA out."
        )
    if ours:
        prompts = variation.positive, variation.negative
        place = (None, False) if where is None else (where.pictures, where.on_text)
        found = live.LiveLora(ours, _identity(lora, side), variation.time, lora.name, node, prompts, *place)
        _attach(target, lora, found)
    if rest:
        target.patch(rest, lora, f"{_identity(lora, side)}|rest")
    masks = 0 if where is None else len(where.pictures)
    late = variation.time.unreached if isinstance(variation.time, Schedule) else []
    lines = ways.live_lines(
        len(ours), reasons, str(variation) if varies else "", masks, late, where is not None and where.on_text
    )
    cost = ways.cost_lines(_cost(ours, side.targets), not varies and not of_itself and where is None)
    return [*lines, *cost, *ways.rank_lines(changes, rank_mask(lora.metadata).stated)]


def _cost(changes: Mapping, targets: Targets) -> float | None:
    """What these add to the multiplications of their layers while they run beside them, as a fraction, by shapes alone; None where one
    of them is no plain product."""
    added = own = 0
    counted: set[str] = set()
    for key, terms in changes.items():
        name, _, _ = taken_apart(key)
        if len(targets.shapes[name]) < 2:
            continue
        for _, adapter in terms:
            if not adapter.is_product or adapter.factor_rank is None or adapter.matrix_shape is None:
                return None
            added += adapter.factor_rank * sum(adapter.matrix_shape)
        own += 0 if name in counted else math.prod(targets.shapes[name])
        counted.add(name)
    return added / own if own else None


def _behind_live(target: Changing, lora: Lora, side: Side, changes: Mapping, node: str | None) -> list[str]:
    """The LoRA as patches of a MODEL; lines for the report. It is live where a live LoRA stands before it on a weight and the order of
    the two matters."""
    if not changes:
        return []
    ordered = live.where_order_matters(target.value, changes)
    in_order = bool(ordered) and not live.is_compiled(target.given)
    ours, _, reasons = split(target.given, ordered) if in_order else ({}, {}, {})
    patched = {key: terms for key, terms in changes.items() if key not in ours}
    _patched(target, lora, side, patched)
    if ours:
        _attach(target, lora, live.LiveLora(ours, f"{_identity(lora, side)}|behind", None, lora.name, node))
    return [*ways.rounded_lines(patched, side.targets), *ways.order_lines(len(ours), reasons)]


def _varies(changes: Mapping) -> bool:
    return any(adapter.varies for terms in changes.values() for _, adapter in terms)


def _kind(changes: Mapping) -> str:
    """What the first of them that varies is called."""
    return next(adapter.name for terms in changes.values() for _, adapter in terms if adapter.varies)


def _still(changes: Mapping) -> Mapping:
    """With all rank columns of T-LoRAs all the time."""
    if not _varies(changes):
        return changes
    return {key: [(c, adapter.at(0.0)) for c, adapter in terms] for key, terms in changes.items()}


def _patched(target: Changing, lora: Lora, side: Side, changes: Mapping) -> None:
    """The LoRA as patches of a MODEL or CLIP; nothing where there is nothing to patch."""
    if target.given is None or not changes:
        return
    target.patch(changes, lora, _identity(lora, side))
    if lora.metadata:
        patch.attach_metadata(target.clone(), lora.metadata)


def _attach(target: Changing, lora: Lora, found: live.LiveLora) -> None:
    clone = target.clone()
    live.attach(clone, found)
    if lora.metadata:
        patch.attach_metadata(clone, lora.metadata)


def _changes(lora: Lora, side: Side, target) -> dict:
    """patch key -> its (coefficient, adapter) in order, for every weight, or part of a weight, that changes at all.

    target: the MODEL or CLIP, None where none is connected.
    """
    found: dict[Key, list] = {}
    awaiting = side.fit.awaiting(lora.broken)
    ready = completed(target, awaiting) if awaiting else {}
    for key, terms in side.fit.adapters(without=lora.broken).items():
        coefficient = side.coefficient(key if isinstance(key, str) else key[0])
        if not abs(coefficient) <= FURTHEST:
            name = key if isinstance(key, str) else key[0]
            raise StrataError(
                f"{lora.name}: strength {side.strength:g} times the block weight of {name} is {coefficient:g}, far beyond what any "
                "LoRA can have. Use block weights from -100 to 100."
            )
        if coefficient != 0:
            found[key] = [(coefficient, ready.get(adapter, adapter)) for adapter in terms]
    began = {} if target is None else begun(target, found, lora.name, lora.identity)
    if not began:
        return found
    return {key: [(c, began.get((key, adapter), adapter)) for c, adapter in terms] for key, terms in found.items()}


def _identity(lora: Lora, side: Side) -> str:
    """Differs for everything that makes a patch differ."""
    return "|".join([lora.identity, repr(side.strength), "" if side.blocks is None else str(side.blocks.weights)])
