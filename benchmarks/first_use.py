"""The first use of a file, end to end: from a file that nobody has read to patched weights, each time in a process of its own."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
import traceback
from pathlib import Path

import comfy.model_management
import folder_paths
import safetensors.torch
import torch

import nodes
from strata.nodes.loader import StrataLoraLoader

from . import models
from .results import seconds, table

NAME = "first.safetensors"
WAYS = ("ComfyUI", "Strata")
STATES = ("in the page cache", "on the disk")
ROUNDS = 3


def first(quick: bool) -> str:
    """Seconds by the clock: of the node, and of it and all patching together."""
    rows = []
    cases = [("SD1.5", (16,))] if quick else [(name, (16, 64, 128)) for name in models.MODELS]
    threads = torch.get_num_threads()
    # A process that is split off has the thread that did it, and no other one: none may be waiting for products.
    torch.set_num_threads(1)
    before = folder_paths.folder_names_and_paths["loras"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder_paths.folder_names_and_paths["loras"] = ([folder], {".safetensors"})
            for name, ranks in cases:
                model = models.build(name, torch.float16)
                comfy.model_management.load_models_gpu([model])
                for rank in ranks:
                    safetensors.torch.save_file(models.lora(model, rank), Path(folder) / NAME)
                    rows += [_row(model, name, rank, state, 1 if quick else ROUNDS) for state in STATES]
                comfy.model_management.unload_all_models()
                del model
    finally:
        folder_paths.folder_names_and_paths["loras"] = before
        torch.set_num_threads(threads)
    columns = ("model", "rank", "the file", "node: ComfyUI", "node: Strata", "patched: ComfyUI", "patched: Strata")
    return table(
        "The first use of a file, in a fresh process",
        (*columns, "node: ComfyUI / Strata", "patched: ComfyUI / Strata"),
        rows,
        "From the unread file to the MODEL, and to the last patched weight, by the clock. The process has the model and ComfyUI in "
        "memory, has used no node of either, and computes with one thread.",
    )


def _row(model, name: str, rank: int, state: str, rounds: int) -> tuple:
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(_apart(lambda way=way: _once(model, way, state)))
    node, whole = ({way: statistics.median(t[at] for t in found[way]) for way in WAYS} for at in (0, 1))
    times = [seconds(each[way]) for each in (node, whole) for way in WAYS]
    return (name, rank, state, *times, *(f"{each[WAYS[0]] / each[WAYS[1]]:.2f}" for each in (node, whole)))


def _apart(run) -> tuple[float, float]:
    """What ``run`` gives in a copy of this process that ends with it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(run()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError("the process of its own failed: see above")
    return tuple(json.loads(said))


def _once(model, way: str, state: str) -> tuple[float, float]:
    """(seconds of the node, seconds of all)."""
    path = folder_paths.get_full_path_or_raise("loras", NAME)
    with open(path, "rb") as file:
        if state == "on the disk":
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while file.read(1 << 24):
                pass
    began = time.perf_counter()
    if way == "ComfyUI":
        patched = nodes.LoraLoader().load_lora(model, None, NAME, 0.8, 0.0)[0]
    else:
        patched = StrataLoraLoader.execute(NAME, 0.8, 0.0, model=model, apply="patch").result[0]
    node = time.perf_counter() - began
    comfy.model_management.load_models_gpu([patched])
    return node, time.perf_counter() - began
