"""The difference of two models as a LoRA file: what Extract LoRA does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from comfy_api.latest import io
from torch import Tensor

from ...lora_math.algebra.budget import Budget
from ...lora_math.algebra.budget import show as shown
from ...lora_math.algebra.extract import Pair, extract
from ...lora_math.algebra.shrink import quality
from ...lora_math.choices import TYPES
from ...lora_math.errors import StrataError
from ...lora_math.writing import lora as writing
from ...lora_math.writing.file import save
from ...lora_math.writing.header import header
from ...lora_math.writing.layouts import Naming, naming
from ..comfy.live import as_patches
from ..comfy.saving import Progress, save_numbered, weight_of
from ..comfy.targets import Targets, clip_targets, model_targets
from ..fitting.block_spec import layout_for
from ..report import saved as report
from .gather import Cut, Known, named, split
from .options import now


def save_difference(
    models: tuple,
    clips: tuple,
    rank: int,
    budget: Budget,
    place: tuple[str, str],
    precision: str,
    layout: str,
) -> io.NodeOutput:
    """Writes the file. models, clips: what the LoRA shall lead to, and what it shall be used on; both None where nothing is connected.
    rank: the largest of a layer; place: folder and name.

    Raises StrataError for models of two kinds, and for whatever cannot be saved as it is asked for.
    """
    (model, base_model), (clip, base_clip) = map(as_patches, models), map(as_patches, clips)
    targets = (
        None if model is None else model_targets(base_model),
        None if clip is None else clip_targets(base_clip),
    )
    family = targets[0].family if targets[0] is not None else None
    names = naming(layout, family)
    places: dict[str, tuple[str, str]] = {}
    blocks: dict[tuple[str, str], str] = {}
    located = layout_for(*targets)
    pairs: list[Pair] = []
    if targets[0] is not None:
        pairs += _pairs(targets[0], model_targets(model), base_model, model, names, places, 0)
    if targets[1] is not None:
        encoders = len({key.split(".", 1)[0] for key in targets[1].shapes})
        pairs += _pairs(targets[1], clip_targets(clip), base_clip, clip, names, places, encoders)
    for key, module_and_parameter in places.items():
        found = located.locate(key.partition(", ")[0])
        blocks[module_and_parameter] = found.group if found.index is None else found.block
    progress = Progress(len(pairs))
    stored = extract(
        pairs,
        rank,
        budget,
        TYPES[precision],
        0.0,
        lambda key: writing.overhead(places[key][0]),
        progress.step,
        "model",
    )
    layers = {places[key]: layer for key, layer in stored.items()}
    tensors = names.spelled(writing.tensors(layers, names.style))
    quality_of_all = quality(layers)
    told = {
        "method": "extract",
        "rank": rank,
        "shrink": shown(budget),
        "error": round(quality_of_all.error, 6),
        "gain": round(quality_of_all.gain, 6),
    }
    ranks = [layer.rank for layer in layers.values() if layer.rank]

    def write(path: str, stem: str):
        return save(path, tensors, header(stem, [], family, ranks, told, now()), progress.tick)

    saved, name = save_numbered(*place, write)
    how = [
        f"rank {rank} at most, {shown(budget)}, {precision}, names as {names.layout} has them for {family or 'an unknown model'}",
        f"{len(pairs) - len(layers)} of {len(pairs)} weights are the same in both",
    ]
    advice = f"no layer may have more than rank {rank}. Raise it."
    notes = report.unmet(budget, quality_of_all, TYPES[precision], advice)
    verdict = report.verdict(name, saved, list(layers.values()))
    text = report.text(name, saved, layers, blocks, how, notes)
    ui = {
        "strata_verdict": [verdict],
        "strata_report": [text],
        "strata_warned": [bool(notes)],
        "strata_lora": [name],
    }
    return io.NodeOutput(name, tensors, text, ui=ui)


def _pairs(
    base: Targets,
    tuned: Targets,
    base_owner,
    tuned_owner,
    names: Naming,
    places: dict[str, tuple[str, str]],
    encoders: int,
) -> Iterator[Pair]:
    """Every weight and bias of both; ``places`` learns where in the file each belongs. Raises StrataError for models of two kinds."""
    known = Known(base, names)
    if not base.shapes.keys() & tuned.shapes.keys():
        raise StrataError("The two models have no weight of the same name: they are of different families.")
    for key, shape in base.shapes.items():
        other = tuned.shapes.get(key)
        module, _ = split(key)
        if other is None or not any(
            name in of for of in (known.whole, known.parts) for name in (f"{module}.weight", key)
        ):
            continue
        if other != shape:
            raise StrataError(
                f"{key} is {'x'.join(map(str, shape))} in one model and {'x'.join(map(str, other))} in the other: they are of "
                "different families."
            )
        for place, cut in named(names, key, known, encoders):
            piece = key if cut is None else f"{key}, {place[0]}"
            places[piece] = place
            rows = shape if cut is None else tuple(cut(torch.empty(shape, device="meta")).shape)
            yield Pair(piece, rows, partial(_part, base_owner, key, cut), partial(_part, tuned_owner, key, cut))


def _part(owner, key: str, cut: Cut) -> Tensor:
    weight = weight_of(owner, key)
    return weight if cut is None else cut(weight).clone()
