"""What a loader tells the person: one verdict, then what was applied, what was not and why, and where ComfyUI would differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...lora_math.blocks import ResolvedWeights
from ...lora_math.families import related
from ...lora_math.family import component
from ...lora_math.reading.problems import show_size
from ...lora_math.reading.state_dict import Entry
from ...lora_math.wording import SHOWN, number, some, spread, tensors
from ..comfy.library import Lora
from ..fitting.amounts import Amount, by_block
from ..fitting.fit import count
from ..fitting.side import Side
from . import tally
from .differences import differences


@dataclass(frozen=True)
class Facts:
    """What a file is, for people to read. algorithms: most used first; rank, alpha: numbers, empty where there are none."""

    algorithms: tuple[str, ...]
    rank: str
    alpha: str
    size: str


def facts(lora: Lora) -> Facts:
    """The facts that ``describe`` puts into an English line, and the browser into one of its language."""
    entries = [entry for entry in lora.contents.entries if entry.parameter == "weight"]
    kinds = Counter(entry.adapter.name for entry in entries)
    ranks = [rank for entry in entries if (rank := entry.adapter.rank) is not None]
    alphas = [entry.alpha for entry in entries if entry.alpha is not None]
    return Facts(
        algorithms=tuple(name for name, _ in kinds.most_common()) or ("bias",),
        rank=spread(ranks) if ranks else "",
        alpha=spread(alphas) if alphas else "",
        size=show_size(lora.size),
    )


def describe(lora: Lora) -> str:
    """What the file is, in one line: family, algorithms, rank, alpha, size."""
    found = facts(lora)
    names = " + ".join(found.algorithms)
    parts = [f"{lora.family} {names}" if lora.family else f"{names} of an unknown family"]
    if found.rank:
        parts.append(f"rank {found.rank}")
    if found.alpha:
        parts.append(f"alpha {found.alpha}")
    elif found.rank:
        parts.append("no alpha (scale 1)")
    return ", ".join([*parts, found.size])


def problems(lora: Lora, misfit: str | None) -> list[str]:
    """What makes this LoRA unusable here; with ``on_problem`` = error each of these stops the graph. misfit: as ``misfit`` has it."""
    found = [misfit] if misfit else []
    if lora.broken:
        found.append(
            f"Damaged: {tensors(len(lora.broken))} of {lora.name} with NaN or infinity, or numbers beyond a million "
            f"({some(sorted(lora.broken))}), which would turn every image black. The file was damaged or its training "
            "diverged: download it again or use an earlier epoch."
        )
    if lora.contents.orphans:
        found.append(
            f"DoRA magnitudes without a layer: {tensors(len(lora.contents.orphans))} of {lora.name} "
            f"({some(sorted(lora.contents.orphans))}), so these layers would do something else than what was trained. "
            "Convert the file again, or download it from where it was published first."
        )
    return found


@tally.once
def misfit(lora: Lora, model: Side, clip: Side) -> str | None:
    """Why the LoRA belongs to another kind of model altogether, so that nothing of it should be applied; None where it does not."""
    entries = lora.contents.entries
    for_model = [entry for entry in entries if not entry.is_text_encoder]
    if model.targets is not None and for_model:
        if _is_foreign(lora, model):
            ours, theirs = lora.family or " or ".join(lora.families[:2]), model.targets.family
            return (
                f"{ours} LoRA, the model is {theirs}: {lora.name} cannot be applied. "
                f"Choose a LoRA made for {theirs}, or load {_article(lora.family or lora.families[0])} model."
            )
        if not model.fit.pieces:
            return _fits_nothing(lora, model, model.targets.family)
    if model.fit.pieces or clip.fit.pieces:
        return None
    if model.targets is None and for_model:
        return f"No MODEL is connected, and {lora.name} changes the diffusion model only. Connect the model input."
    if clip.targets is None:
        return f"No CLIP is connected, and {lora.name} changes text encoders only. Connect the clip input."
    example = some(entry.module for entry in entries)
    return (
        f"Nothing fits: none of the {lora.tensors} tensors of {lora.name} belongs to these text encoders ({example})."
    )


def _is_foreign(lora: Lora, model: Side) -> bool:
    """Whether the model is none of the families that the file can be for.

    Only a family that ComfyUI's own class states counts: what looks like one may be its next version. A relative's LoRA is welcome as far
    as it fits.
    """
    theirs = model.targets.family
    if not model.targets.certain or not lora.families or theirs in lora.families:
        return False
    if not any(related(theirs, ours) for ours in lora.families):
        return True
    # One layer of the whole model may have the same size by chance.
    fitting = {entry for _, entry in model.fit.pieces} | set(model.fit.repeated)
    return 2 * len(fitting) < sum(not entry.is_text_encoder for entry in lora.contents.entries)


def _fits_nothing(lora: Lora, model: Side, family: str | None) -> str:
    name = family or "of an unknown family"
    if model.fit.refused:
        entry, reason = model.fit.refused[0]
        why = f"{some([entry.module])}: {reason}"
    else:
        why = f"it names layers like {some(entry.module for entry in model.fit.strangers)}"
    return (
        f"Nothing fits, the model is {name}: {lora.name} does not belong to it ({why}). "
        "It was made for another model, or by a trainer whose names are unknown."
    )


@tally.once
def second_model(lora: Lora, model: Side, clip: Side) -> str | None:
    """What a file holds besides, where it is of two diffusion models at once (diffusers' ``transformer`` and ``transformer_2``)."""
    names = {entry.module.partition(".")[0] for entry in lora.contents.entries if not entry.is_text_encoder}
    second = sorted(name for name in names if name.removesuffix("_2") in names and name.endswith("_2"))
    if not second:
        return None
    return (
        f"Two LoRAs in one file: {second[0].removesuffix('_2')} is for the first model of a pair (Wan 2.2: high noise) and acts here, "
        f"{second[0]} is for the second (low noise) and is left out. Save each as a file of its own, and give each model its own."
    )


def verdict(lora: Lora, model: Side, clip: Side, found: Sequence[str], applied: bool) -> str:
    """One line: what happened."""
    if not applied:
        return found[0] if found else f"{lora.name}: strength 0, nothing changed"
    used, acting = tally.used(lora, model, clip), tally.acting(lora, model, clip)
    connected = tally.reachable(lora, model, clip)
    if not acting:
        return f"{lora.name}: nothing acts, {_why_not(lora, model, clip)}"
    if acting < used:
        return f"{lora.name}: {acting} of {connected} tensors act, {_why_not(lora, model, clip)}"
    if second_model(lora, model, clip) is not None:
        return f"{lora.name}: two LoRAs in one file, {used} of {connected} tensors applied"
    if used == connected:
        return f"{lora.name}: all {used} tensors applied"
    return f"{lora.name}: {used} of {connected} tensors applied"


def _why_not(lora: Lora, model: Side, clip: Side) -> str:
    """What keeps tensors from acting that fit."""
    reasons = []
    for side, name in ((model, "strength_model"), (clip, "strength_clip")):
        keys = [target.key for target, _ in side.fit.pieces]
        if keys and side.strength == 0:
            reasons.append(f"{name} is 0")
        elif keys and side.hidden:
            reasons.append("the mask is black everywhere")
        elif idle := [key for key in keys if side.coefficient(key) == 0]:
            reasons.append(
                "all block weights are 0" if len(idle) == len(keys) else "the block weight of the others is 0"
            )
    idle = [e for side in (model, clip) for t, e in side.fit.pieces if e in lora.idle and side.coefficient(t.key) != 0]
    if idle:
        which = (
            "nothing in it was trained"
            if len(idle) == len(lora.contents.entries)
            else f"{tensors(count(idle))} untrained"
        )
        reasons.append(f"{which} (factors or alpha of 0)")
    if not clip.fit.pieces and model.strength == 0 and clip.targets is not None:
        reasons.append("it has no text encoder part")
    return " and ".join(dict.fromkeys(reasons))


def told(lora: Lora, model: Side, clip: Side, found: Sequence[str], applied: bool) -> tuple[str, list[str]]:
    """(the verdict, the lines of the report behind it)."""
    lines = [f"File: {_described(lora, model, clip)}"]
    lines += [f"Problem: {line}" for line in found if applied or line != found[0]]
    if (besides := second_model(lora, model, clip)) is not None:
        lines.append(besides)
    if applied:
        lines += _side_lines(lora, model, clip)
        lines += _block_lines(lora, model, clip)
    lines += _leftover_lines(lora, model, clip)
    lines += [f"Note: {note}" for note in lora.contents.notes]
    lines += _differences(lora, model, clip)
    return verdict(lora, model, clip, found, applied), lines


@tally.once
def _described(lora: Lora, model: Side, clip: Side) -> str:
    return describe(lora)


@tally.once
def _differences(lora: Lora, model: Side, clip: Side) -> list[str]:
    return [f"Unlike ComfyUI's loader: {line}" for line in differences(lora.contents, (model, clip))]


def _side_lines(lora: Lora, model: Side, clip: Side) -> list[str]:
    lines = []
    fitting, in_file = tally.for_model(lora, model, clip)
    if model.targets is not None and in_file:
        family = model.targets.family or "unknown family"
        share = f"all {tensors(in_file)}" if fitting == in_file else f"{fitting} of {tensors(in_file)}"
        lines.append(f"Model ({family}): {share} at strength {number(model.strength)}")
    for name, applied in tally.by_encoder(lora, model, clip):
        lines.append(f"Text encoder {name}: {tensors(applied)} at strength {number(clip.strength)}")
    if clip.targets is None and (unused := tally.for_encoders(lora, model, clip)):
        lines.append(f"Text encoders: {tensors(unused)} unused, no CLIP is connected")
    if model.targets is None and in_file:
        lines.append(f"Model: {tensors(in_file)} unused, no MODEL is connected")
    return lines


def unused_half(low: tuple[str, float] | None) -> list[str]:
    """What a row says for the second model of a pair where only one is there. low: (file, strength)."""
    if low is None or low[1] == 0:
        return []
    return [f"Not used: {low[0]} at {number(low[1])}, which is for model_low of LoRA Stack (Strata)"]


def _block_lines(lora: Lora, model: Side, clip: Side) -> list[str]:
    """A row per block that the LoRA changes, then what was named in vain."""
    blocks = model.blocks or clip.blocks
    if blocks is None:
        return []
    rows = {**by_block(lora, model, blocks.layout), **by_block(lora, clip, blocks.layout)}
    total = sum(row.energy for row in rows.values()) or 1.0
    order = {block.name: at for at, block in enumerate(_all_blocks(blocks))}
    if all(blocks.weight(key) == 1 for row in rows.values() for key in row.keys):
        return ["Block weights: 1 in every block of this LoRA", *_block_notes(blocks, rows, order)]
    lines = [f"Block weights: {blocks.weights}"]
    for name, row in sorted(rows.items(), key=lambda item: order.get(item[0], len(order))):
        share = f", {100 * row.energy / total:.1f} % of the LoRA" if row.energy else ""
        own = f" ({100 * row.relative:.2g} % of these weights)" if row.relative else ""
        weights = spread([blocks.weight(key) for key in row.keys], median=False)
        lines.append(f"  {name} x {weights}: {tensors(row.tensors)}{share}{own}")
    return [*lines, *_block_notes(blocks, rows, order)]


def _block_notes(blocks: ResolvedWeights, rows: Mapping[str, Amount], order: Mapping[str, int]) -> list[str]:
    notes = [f"  Note: {note}" for note in blocks.weights.notes]
    absent = sorted(_named(blocks) - rows.keys(), key=lambda name: order.get(name, 0))
    return [*notes, f"  Named but not in this LoRA: {some(absent, limit=8)}"] if absent else notes


def _all_blocks(blocks: ResolvedWeights) -> list:
    layout = blocks.layout
    return [*layout.blocks, *layout.aux, *layout.text_encoders]


def _named(blocks: ResolvedWeights) -> set[str]:
    """Blocks that some rule names one by one: "S*" names none in particular."""
    layout = blocks.layout
    found = set()
    for rule in blocks.weights.rules:
        names = {block.name for block in rule.selector.blocks(layout)}
        if len(names) < len(layout.blocks) / 4:
            found |= names
    return found


@tally.once
def _leftover_lines(lora: Lora, model: Side, clip: Side) -> list[str]:
    lines = []
    refused = {entry: reason for side in (model, clip) for entry, reason in side.fit.refused}
    if refused:
        shown = "; ".join(f"{entry.module}: {reason}" for entry, reason in list(refused.items())[:SHOWN])
        more = len(refused) - SHOWN
        lines.append(f"Does not fit, {tensors(count(refused))}: {shown}{f'; {more} more' if more > 0 else ''}")
    repeated = dict.fromkeys(entry for side in (model, clip) for entry in side.fit.repeated)
    if repeated:
        lines.append(
            f"In the file more than once, under other names of the same layers, and applied once, "
            f"{tensors(count(repeated))}: {some(entry.module for entry in repeated)}"
        )
    strangers = tally.strangers(lora, model, clip)
    by_part: dict[str, list[Entry]] = defaultdict(list)
    for entry in strangers:
        by_part[component(entry.module)].append(entry)
    for part, entries in by_part.items():
        lines.append(
            f"Left over, no such layer ({part}), {tensors(count(entries))}: {some(entry.module for entry in entries)}"
        )
    by_reason: dict[str, list[str]] = defaultdict(list)
    for key, reason in lora.contents.leftovers.items():
        by_reason[reason].append(key)
    for reason, keys in by_reason.items():
        lines.append(f"Left over, {reason}, {tensors(len(keys))}: {some(keys)}")
    return lines


def _article(name: str) -> str:
    """'an SDXL', 'a FLUX.1': by how the name is spoken."""
    return f"{'an' if name[:2].upper() in ('SD', 'LT') or name[0] in 'AEIO' else 'a'} {name}"
