"""What a LoRA file is and where its energy lies, for the browser: computed when asked for, kept while the file stays the same."""

from __future__ import annotations

import glob
import math
import os
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from ...lora_math.blocks import FAMILIES, Layout, builtin_layout
from ...lora_math.blocks.layout import MODEL_PREFIX
from ...lora_math.errors import StrataError
from ...lora_math.module_blocks import block_of
from ...lora_math.named_layout import layout_by_names
from ...lora_math.noise import noise_of
from ...lora_math.reading.state_dict import Entry
from ...lora_math.wording import tensors
from ..comfy.library import CACHE, Lora, file_key, place_in_folders
from ..comfy.lora_names import locate
from ..comfy.targets import Targets
from ..fitting.amounts import Amount, row_of
from ..fitting.block_spec import layout_for
from ..fitting.fit import Fit, fits_of, is_text_encoder
from ..report import lora as report
from .words import groups

Met = tuple[Targets, Fit]
MAX_METADATA, MAX_VALUE, MAX_LEFTOVERS = 120, 1500, 100
# How many profiles are kept; each is a few kB.
KEPT = 128
PREVIEWS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
}
# Videos that every browser plays, and their types.
VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True, eq=False)
class Profile:
    """``answer``: what the browser gets, ready for JSON. ``layout``: the model's, None where nothing tells which it is."""

    answer: dict
    layout: Layout | None


_lock = threading.Lock()
_kept: OrderedDict[tuple, Profile] = OrderedDict()


def profile(name: str) -> Profile:
    """The profile of a LoRA by the name in a workflow. Raises StrataError for a name or a file that cannot be used.

    A link that leads out of the ``loras`` folders is one: the loader follows it as ComfyUI does, but a web page is told nothing.
    """
    listed, path = shown_file(name)
    stamp = file_key(path)
    key = (path, stamp, _known_models(repr(stamp)))
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    found = _profile(CACHE.get(name), listed, path)
    with _lock:
        _kept[key] = found
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return found


def shown_file(name: str) -> tuple[str, str]:
    """(name of the list, path) of a file that a web page may be told of. Raises StrataError."""
    listed, path = locate(name)
    if place_in_folders(path) is None:
        raise StrataError(
            f"LoRA '{name}' is a link to a file outside of your loras folders. The loader uses it, but it is not shown here: "
            "name the folder where it really is as a loras folder in extra_model_paths.yaml."
        )
    return listed, path


def _known_models(identity: str) -> tuple[tuple[int, bool], ...]:
    """Which loaded models this file has met, and which were measured: a profile made before that is made anew after."""
    return tuple((id(targets), targets.measured) for targets, _ in fits_of(identity))


def _profile(lora: Lora, name: str, path: str) -> Profile:
    model, clip = met(lora)
    if model is not None:
        layout = _with_encoders(layout_for(model[0], clip[0] if clip else None))
    else:
        layout = layout_by_names(lora.contents.entries, lora.families if lora.family is None else (lora.family,))
    entries = lora.contents.entries
    fits = _fits(lora, model, clip)
    rows, norm = _rows(lora, layout, model, clip)
    answer = {
        "name": name,
        "family": lora.family,
        "about": report.describe(lora),
        "facts": asdict(report.facts(lora)),
        "size": lora.size,
        "tensors": lora.tensors,
        "fit": _fit_line(fits),
        "fits": fits,
        "problem": f"Damaged: {tensors(len(lora.broken))} with NaN or infinity, or numbers beyond a million."
        if lora.broken
        else "",
        "trigger_words": lora.trigger_words,
        "metadata": _metadata(lora.metadata),
        "notes": list(lora.contents.notes),
        "leftovers": [
            [_cut(key, 200), _cut(why, 200)] for key, why in list(lora.contents.leftovers.items())[:MAX_LEFTOVERS]
        ],
        "leftover_count": len(lora.contents.leftovers),
        "changes": {"model": any(not is_text_encoder(e) for e in entries), "clip": any(map(is_text_encoder, entries))},
        "preview": preview(path, name),
        "exact": model is not None,
        "layout": None if layout is None else {"family": layout.family, "groups": groups(layout)},
        "blocks": rows,
        "norm": norm,
        "noise": noise_of(lora.family),
    }
    return Profile(answer, layout)


def met(lora: Lora) -> tuple[Met | None, Met | None]:
    """The model and the text encoders that are loaded and that most of this file fits, if any."""
    model = clip = None
    for targets, fit in fits_of(lora.identity):
        is_model = any(key.startswith(MODEL_PREFIX) for key in targets.shapes)
        best = model if is_model else clip
        if fit.pieces and (best is None or len(fit.pieces) >= len(best[1].pieces)):
            model, clip = ((targets, fit), clip) if is_model else (model, (targets, fit))
    return model, clip


def _with_encoders(layout: Layout) -> Layout:
    """A model met without its text encoders: those that its family usually has."""
    if layout.encoders or layout.family not in FAMILIES:
        return layout
    usual = builtin_layout(layout.family)
    return replace(layout, text_encoders=usual.text_encoders, encoders=usual.encoders)


def _rows(
    lora: Lora, layout: Layout | None, model: Met | None, clip: Met | None
) -> tuple[dict[str, dict], float | None]:
    """(the rows, the norm of the LoRA's whole change at strength 1 or None where nothing tells).

    The rows: fader -> {"share": of the squared norm of the LoRA's whole change, "tensors": how many, "relative": the norm of its change
    at strength 1 over that of the loaded model's weights that it changes, where known}; only where the LoRA has something.
    """
    if layout is None:
        return {}, None
    rows: dict[str, Amount] = defaultdict(Amount)
    placed = set()
    for met in (model, clip):
        for target, entry in met[1].pieces if met else ():
            placed.add(id(entry))
            rows[row_of(layout.locate(target.key))].add(lora, entry, target, met[0])
    for entry in lora.contents.entries:
        met = clip if is_text_encoder(entry) else model
        if id(entry) not in placed and met is None:
            row = rows[block_of(entry.module, layout, entry.adapter.matrix_shape)]
            row.energy += _energy_without_model(lora, entry)
            row.tensors += len(entry.keys)
            row.own = None
    total = math.fsum(row.energy for row in rows.values())
    return {name: _row(row, total) for name, row in rows.items()}, math.sqrt(total)


def _row(row: Amount, total: float) -> dict:
    answer = {"share": row.energy / total if total else 0.0, "tensors": row.tensors}
    return answer if row.relative is None else {**answer, "relative": row.relative}


def _energy_without_model(lora: Lora, entry: Entry) -> float:
    """As ``Lora.energy``, with the shape that the tensors themselves tell; 0 where they do not."""
    shape = entry.adapter.matrix_shape
    try:
        return lora.energy(entry, shape or ()) or 0.0
    except (RuntimeError, ValueError, IndexError):
        return 0.0


def _fits(lora: Lora, model: Met | None, clip: Met | None) -> dict | None:
    """How much of it fits what is loaded: ``{"family": the model's or null, "used", "total": tensors}``; None before it has met one, and
    where it changes a model and only text encoders have known it, which families share."""
    if model is None and (clip is None or not all(is_text_encoder(entry) for entry in lora.contents.entries)):
        return None
    fitting = (entry for met in (model, clip) if met for entry in (*(e for _, e in met[1].pieces), *met[1].repeated))
    used = {id(entry): len(entry.keys) for entry in fitting}
    meant = [e for e in lora.contents.entries if (clip if is_text_encoder(e) else model) is not None]
    total = sum(len(entry.keys) for entry in meant)
    return {"family": model[0].family if model else None, "used": min(sum(used.values()), total), "total": total}


def _fit_line(fits: dict | None) -> str:
    """The same in English."""
    if fits is None:
        return ""
    whose = fits["family"] or "the loaded model"
    return (
        f"fits {whose}" if fits["used"] >= fits["total"] else f"{fits['used']} of {fits['total']} tensors fit {whose}"
    )


def _metadata(metadata: Mapping[str, str]) -> list[list[str]]:
    """The header, most telling keys first, long values cut: pictures and tag lists of megabytes are not for a node."""
    order = sorted(metadata, key=lambda key: (not key.startswith("modelspec."), not key.startswith("ss_"), key))
    return [[_cut(key, 200), _cut(metadata[key], MAX_VALUE)] for key in order[:MAX_METADATA]]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def preview(path: str, name: str) -> dict | None:
    """Where core's ``/experiment/models/preview/loras/{folder}/{file}`` finds a picture beside the file, or the name by which
    ``/strata/picture`` has it; else, where a video lies there, the name by which ``/strata/video`` has it; None where there is neither."""
    if _beside(path, PREVIEWS) is not None:
        # Core looks for it by a pattern, which brackets in the name of a file or folder are part of.
        if glob.escape(path) != path:
            return None if beside(path, PREVIEWS) is None else {"picture": name}
        place = place_in_folders(path)
        return None if place is None else {"folder": place[0], "file": place[1]}
    return None if beside(path, VIDEOS) is None else {"video": name}


def beside(path: str, endings: Iterable[str]) -> str | None:
    """The picture or video beside the file, where it really lies within the ``loras`` folders."""
    found = _beside(path, endings)
    return found if found is not None and place_in_folders(found) is not None else None


def _beside(path: str, endings: Iterable[str]) -> str | None:
    stem = os.path.splitext(path)[0]
    names = (stem + middle + end for middle in ("", ".preview") for end in endings)
    return next(filter(os.path.isfile, names), None)
