"""A sweep from its settings to its outputs: plan, hashes, drawing, sheets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...lora_math.errors import StrataError
from ...lora_math.rows_text import read_rows
from ...lora_math.tags import without_tags
from ..comfy.drawing import Way
from ..comfy.library import file_key
from ..comfy.live_time import read_variation
from ..comfy.lora_names import path_of
from ..comfy.notices import send
from ..comfy.pictures import Folder, file_stamp, makes_lists
from ..lora_stack import used_text
from ..stack import StackEntry
from . import carried, grid, identity, products, table
from .axes import Axis
from .energies import Blocks
from .parameters import parameters
from .plan import Cell, Plan, Settings, overlaps, plan, rows_key
from .run import Artist, Counts, Outcome, Run

EVENT = "strata.sweep"
# Letters of a setting that are read for tags.
MAX_TEXT = 100_000
# The nodes' inputs that name a model's own file.
MODEL_FILES = ("ckpt_name", "unet_name", "gguf_name", "model_name")


@dataclass(frozen=True, eq=False)
class Request:
    """Everything that a sweep was asked for. count: pictures of a cell; prompt, extra: of ComfyUI, None where it does not tell."""

    plain: Settings
    axes: list[Axis]
    blocks: Blocks
    way: Way
    apply: str
    compare: str
    compare_cell: int
    cell_size: int
    theme: str
    prefix: str
    resume: bool
    count: int
    node: str | None = None
    prompt: Mapping | None = None
    extra: Mapping | None = None


@dataclass(frozen=True, eq=False)
class Done:
    """outputs: of the node, in order; ui: for the page; entries: the LoRAs that were used; failed: whether a cell could not be drawn."""

    outputs: tuple
    ui: dict
    entries: list[StackEntry]
    failed: bool


def work(request: Request) -> Done:
    """Raises StrataError; a press on stop keeps what was saved."""
    sweep = plan(request.plain, request.axes, request.blocks.layout, request.compare, request.compare_cell)
    folder = Folder(request.prefix)
    hashes = _hashes(request, sweep)
    known = folder.found() if request.resume else {}
    counts = Counts()
    way = request.way
    own_cfg = _has_own_cfg(request)
    artist = Artist(request.blocks.model, request.blocks.clip, way, request.apply, request.node, counts, own_cfg)
    told_cells: dict[int, dict] = {}

    def seen(number: int, outcome: Outcome) -> None:
        cell = sweep.cells[number]
        if cell.index is not None:
            told_cells[number] = products.told_of_cell(cell, outcome)
            send(request.node, EVENT, {"what": "cell", "cell": told_cells[number]})

    send(request.node, EVENT, {"what": "begin", **_told_of_sweep(request, sweep)})
    run = Run(
        sweep,
        hashes,
        artist,
        folder,
        known,
        lambda cell, picture: _texts(request, cell, picture.shape),
        lambda cell: _told(sweep, cell),
        seen,
    )
    outcomes = run.outcomes()
    against = products.against_words(request.compare, request.compare_cell)
    done = products.Finished(sweep, outcomes, against, request.theme, request.cell_size)
    return _handed_on(request, done, folder, counts, artist, [told_cells[number] for number in sorted(told_cells)])


def _handed_on(request: Request, done, folder: Folder, counts: Counts, artist: Artist, cells: list[dict]) -> Done:
    sheets, differences = products.grid_sheets(done), products.difference_sheets(done)
    drawn, knee = products.curve_picture(done)
    lines = products.table_lines(done, request.blocks if request.blocks.layout is not None else None)
    as_csv, as_json = table.as_csv(done.axes, lines), table.as_json(done.axes, lines)
    texts = _workflow(request)
    saved = [folder.save_picture(sheet, "_grid", texts) for sheet in sheets]
    for sheet in differences:
        folder.save_picture(sheet, "_differences", texts)
    folder.save_texts({"csv": as_csv, "json": as_json}, "_table")
    told = [
        *products.report_lines(done, counts, list(artist.verdicts), knee),
        *_remarks(request, done, folder, counts),
        *_kept_for_desk(request, done),
    ]
    report = "\n".join(told)
    failed = any(done.outcomes[number].error for number, _ in enumerate(done.plan.shown))
    maps = grid.as_images(differences, request.theme) if differences else torch.zeros(1, 16, 16, 3)
    outputs = (
        grid.as_images(sheets, request.theme),
        products.batch(done),
        maps,
        drawn,
        as_csv,
        as_json,
        report,
    )
    ui = {
        "strata_verdict": [report.split("\n", 1)[0]],
        "strata_report": [report],
        "strata_warned": [failed],
        "strata_sweep": [
            {
                **_told_of_sweep(request, done.plan),
                "cells": cells,
                "grid": [each.shown for each in saved],
                "against": done.against,
            }
        ],
    }
    entries = [row for cell in done.plan.cells for row in cell.settings.acting if row.lora is None]
    return Done(outputs, ui, list({rows_key([row]): row for row in entries}.values()), failed)


def _remarks(request: Request, done: products.Finished, folder: Folder, counts: Counts) -> list[str]:
    """What was asked for and does not act as one may think."""
    found = overlaps(done.axes, request.blocks.layout)
    texts = {text for cell in done.plan.shown for text in (cell.settings.positive, cell.settings.negative)}
    if request.way.guider is None and any(without_tags(text) != text for text in texts):
        found.append(
            "The prompts hold <lora:...> tags, which a sweep reads as words: take them out, and name the LoRA in lora_name or connect a "
            "LORA_STACK"
        )
    if folder.unseen and counts.drawn:
        found.append(
            f"{folder.unseen} older pictures of this filename_prefix were not looked at, so that cells among them may have been drawn "
            "again. Choose another filename_prefix for new sweeps"
        )
    return found


def _kept_for_desk(request: Request, done: products.Finished) -> list[str]:
    """Keeps which blocks carry the pictures, where the sweep was about that; what the report says of it."""
    row = carried.row_of_sweep(done.plan, request.plain.rows, request.compare, request.blocks)
    found = {} if row is None else carried.differences(done.plan, done.outcomes)
    if not found:
        return []
    try:
        carried.keep(row, found, _model_name(request))
    except (OSError, StrataError) as problem:
        return [f"The desk of {row[0]} cannot show which block carries the picture: {problem}"]
    most = max(found, key=found.__getitem__)
    return [f"Leaving out {most} changes the picture most; the desk of {row[0]} shows each block's part"]


def _has_own_cfg(request: Request) -> bool:
    return request.way.guider is not None and not any(axis.kind == "cfg" for axis in request.axes)


def _told_of_sweep(request: Request, sweep: Plan) -> dict:
    """For the page, before anything is drawn. rows: the LoRAs without any axis."""
    rows = products.told_of_rows(request.plain)
    return {"axes": products.told_of_axes(sweep), "count": len(sweep.shown), "rows": rows}


def _hashes(request: Request, sweep: Plan) -> list[str]:
    """Of each cell. Where ComfyUI does not tell what MODEL and the others are, no two runs have the same."""
    around = identity.upstream(
        request.prompt,
        request.node,
        ("model", "clip", "vae", "sampler", "guider", *(("lora_stack",) if _in_memory(request.plain) else ())),
        _stamp,
        makes_lists,
    )
    if around is None:
        around = os.urandom(16).hex()
    way, latent = request.way, request.way.latent
    samples = latent["samples"]
    parts = list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]
    common = {
        "around": around,
        "latent": [identity.tensor_digest(part) for part in parts],
        "mask": identity.tensor_digest(latent.get("noise_mask")),
        "batch": repr(latent.get("batch_index")),
        "ratios": [latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")],
        "sigmas": identity.tensor_digest(way.sigmas),
        "how": [way.sampler_name, way.scheduler, way.denoise, request.apply],
    }
    known: dict[tuple, list] = {}

    def row_of(row: StackEntry) -> list:
        key = rows_key([row])
        if key not in known:
            known[key] = _row_identity(row, request)
        return known[key]

    return [
        identity.cell_hash(cell.settings, [row_of(row) for row in cell.settings.acting], common) for cell in sweep.cells
    ]


def _stamp(text: str):
    """Of the files that a setting names, as a whole or in tags."""
    if "<lora:" not in text and "<lyco:" not in text:
        return file_stamp(text)
    return [[name, _file_of(name)] for name in dict.fromkeys(tag.name for tag in _tags(text))]


def _tags(text: str) -> list:
    return [row_tag for row in read_rows(text[:MAX_TEXT]) for row_tag in row.tags]


def _file_of(name: str):
    try:
        return repr(file_key(path_of(name)).kept)
    except StrataError:
        return None


def _in_memory(settings: Settings) -> bool:
    return any(row.lora is not None for row in settings.rows)


def _row_identity(row: StackEntry, request: Request) -> list:
    try:
        file = row.lora.identity if row.lora is not None else file_key(path_of(row[0])).kept
        blocks = identity.blocks_text(row.block_weights, request.blocks.layout)
        return identity.row_identity(row, file, blocks, read_variation(row.keyframes))
    # The cell itself says what is wrong.
    except StrataError as problem:
        return [str(problem)]


def _told(sweep: Plan, cell: Cell) -> dict:
    """About a cell, in its PNG."""
    values = (
        dict(zip([axis.name for axis in sweep.axes], sweep.labels(cell), strict=True))
        if cell.at or not sweep.axes
        else {}
    )
    return {"values": values, "loras": used_text(cell.settings.acting)}


def _workflow(request: Request) -> dict[str, str]:
    """As Save Image writes it."""
    texts = {} if request.prompt is None else {"prompt": json.dumps(request.prompt)}
    for name, value in (request.extra or {}).items():
        texts[name] = json.dumps(value)
    return texts


def _texts(request: Request, cell: Cell, shape: tuple[int, ...]) -> dict[str, str]:
    way = request.way
    told = parameters(
        cell.settings,
        used_text(cell.settings.acting),
        way,
        _has_own_cfg(request),
        (shape[2], shape[1]),
        _model_name(request),
    )
    return {"parameters": told, **_workflow(request)}


def _model_name(request: Request) -> str:
    """The model's file, from the nodes before: the nearest that names one."""
    prompt, node = request.prompt, request.node
    if not isinstance(prompt, Mapping) or node not in prompt:
        return ""
    seen, stack = set(), [node]
    while stack and len(seen) < identity.MAX_NODES:
        at = stack.pop(0)
        own = prompt[at].get("inputs", {}) if isinstance(prompt[at], Mapping) else {}
        for name in MODEL_FILES:
            if isinstance(own.get(name), str):
                return os.path.splitext(os.path.basename(own[name].replace("\\", "/")))[0]
        seen.add(at)
        wires = [own[name] for name in ("model", "guider") if name in own] if at == node else list(own.values())
        for value in wires:
            if isinstance(value, list) and len(value) == 2 and value[0] in prompt and value[0] not in seen:
                stack.append(value[0])
    return ""
