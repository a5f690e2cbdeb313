"""A stack, or a freshly trained LoRA, as one file: what Save LoRA does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from comfy_api.latest import io

from ...lora_math.algebra import budget
from ...lora_math.baking import Recipe, bake, rounds
from ...lora_math.choices import LAYOUTS, TYPES
from ...lora_math.family import detect
from ...lora_math.schedule import Moment
from ...lora_math.writing.file import save
from ...lora_math.writing.header import header
from ...lora_math.writing.layouts import naming
from ..comfy.library import Lora
from ..comfy.saving import Progress, save_numbered
from ..comfy.targets import clip_targets, model_targets
from ..report import saved as report
from ..stack import StackEntry
from .gather import gather, sources_of
from .options import budget_of, now


class Wanted(NamedTuple):
    """The node's inputs, checked. shrink and amount are as they arrived, for the amount means what ``shrink`` says; picture: a data URL."""

    method: str
    shrink: object
    amount: object
    folder: str
    filename_prefix: str
    precision: str
    layout: str
    spectral_limit: float
    density: float
    drop_seed: int
    keep_empty_layers: bool
    moment: Moment | None
    picture: str | None


def save_stack(stack: Sequence[StackEntry], trained: Lora | None, model, clip, wanted: Wanted) -> io.NodeOutput:
    """Writes the file. trained: one more LoRA, at strength 1; model, clip: what they are for, or None.

    Raises StrataError for whatever cannot be saved as it is asked for."""
    moment, layout = wanted.moment, wanted.layout
    sources = sources_of(stack, trained, moment)
    targets = (None if model is None else model_targets(model), None if clip is None else clip_targets(clip))
    entries = [entry for source in sources for entry in source.entries]
    family = targets[0].family if targets[0] is not None else detect(entries, sources[0].metadata)
    # Without a model the layers keep the first file's names, and with them its way of spelling.
    names = naming(layout if targets != (None, None) else LAYOUTS[1], family, sources[0].keys)
    gathered = gather(sources, model, clip, targets, names)
    said = sum(len(value.encode()) for source in sources for value in source.metadata.values())
    recipe = Recipe(
        wanted.method,
        budget_of(wanted.shrink, wanted.amount, said),
        wanted.spectral_limit,
        wanted.density,
        wanted.drop_seed,
        TYPES[wanted.precision],
        names.style,
        wanted.keep_empty_layers,
    )
    progress = Progress(rounds(recipe) * len(gathered.layers))
    baked = bake(gathered.layers, gathered.weights, recipe, progress.step)
    tensors = names.spelled(baked.tensors)
    found = baked.quality
    told = {
        "method": wanted.method,
        "shrink": budget.show(recipe.budget),
        "spectral_limit": wanted.spectral_limit,
        "error": round(found.error, 6),
        "gain": round(found.gain, 6),
        "sources": [
            {
                "name": source.name,
                "hash": source.parent.sha256,
                "strength_model": source.strength_model,
                "strength_clip": source.strength_clip,
                "block_weights": None if source.blocks is None else source.blocks.text,
                **({"over_time": source.over_time, "moment": str(moment)} if source.over_time else {}),
            }
            for source in sources
        ],
    }
    parents = [source.parent for source in sources]

    def write(path: str, stem: str):
        metadata = header(stem, parents, family, baked.ranks, told, now(), wanted.picture)
        return save(path, tensors, metadata, progress.tick)

    saved, name = save_numbered(wanted.folder, wanted.filename_prefix, write)
    whose = "the first file" if targets == (None, None) else names.layout
    how = [
        f"{wanted.method}, {budget.show(recipe.budget)}, {wanted.precision}, names as {whose} has them, for {family or 'an unknown model'}"
    ]
    if targets == (None, None) and layout not in LAYOUTS[:2]:
        how.append(f"layout {layout} had no effect: connect the MODEL or CLIP that the LoRAs are for")
    if wanted.spectral_limit:
        how.append(f"singular values above {wanted.spectral_limit:g} cut to it; the error counts from there")
    how += [
        f"{source.name}: its strength over time as it is at {moment}: model {source.strength_model:g}"
        for source in sources
        if source.over_time
    ]
    if moment is not None and not any(source.over_time for source in sources):
        how.append(f"moment {moment} had no effect: no LoRA here has a strength over time")
    advice = (
        "of DoRA, OFT, elementwise merges and the like the first 256 directions are looked at. Choose a rank, or exact."
    )
    notes = [*gathered.notes, *report.unmet(recipe.budget, found, recipe.dtype, advice)]
    verdict = report.verdict(name, saved, list(baked.layers.values()))
    text = report.text(name, saved, baked.layers, gathered.blocks, how, notes)
    ui = {
        "strata_verdict": [verdict],
        "strata_report": [text],
        "strata_warned": [bool(notes)],
        "strata_lora": [name],
    }
    return io.NodeOutput(name, tensors, text, ui=ui)
