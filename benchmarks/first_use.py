"""The first use of a file, end to end: from a file that nobody has read to patched weights, each time in a process of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
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


def first(quick: bool) -> str:
    """Seconds by the clock: of the node, and of it and all patching together."""
    rows = []
    cases = [("SD1.5", 16)] if quick else [(name, rank) for name in models.MODELS for rank in (16, 64, 128)]
    with tempfile.TemporaryDirectory() as folder:
        for name, rank in cases:
            model = models.build(name, torch.float16)
            safetensors.torch.save_file(models.lora(model, rank), Path(folder) / NAME)
            del model
            for state in ("in the page cache", "on the disk"):
                found = {way: [_child(folder, name, way, state) for _ in range(1 if quick else 3)] for way in WAYS}
                node, whole = ({way: statistics.median(t[at] for t in found[way]) for way in WAYS} for at in (0, 1))
                times = [seconds(each[way]) for each in (node, whole) for way in WAYS]
                rows.append(
                    (name, rank, state, *times, *(f"{each[WAYS[0]] / each[WAYS[1]]:.2f}" for each in (node, whole)))
                )
    columns = ("model", "rank", "the file", "node: ComfyUI", "node: Strata", "patched: ComfyUI", "patched: Strata")
    return table(
        "The first use of a file, in a fresh process",
        (*columns, "node: ComfyUI / Strata", "patched: ComfyUI / Strata"),
        rows,
        "From the unread file to the MODEL, and to the last patched weight. By the clock, one thread; the model is loaded before.",
    )


def _child(folder: str, name: str, way: str, state: str) -> tuple[float, float]:
    code = f"from benchmarks.first_use import once; once({folder!r}, {name!r}, {way!r}, {state!r})"
    start = f"import runpy; run = runpy.run_path({str(Path(__file__).with_name('run.py'))!r}); run['_import_comfyui']()\n{code}"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", start], env=env, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def once(folder: str, name: str, way: str, state: str) -> None:
    """In the fresh process: prints [seconds of the node, seconds of all]."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    folder_paths.folder_names_and_paths["loras"] = ([folder], {".safetensors"})
    model = models.build(name, torch.float16)
    comfy.model_management.load_models_gpu([model])
    with open(Path(folder) / NAME, "rb") as file:
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
    print(json.dumps([node, time.perf_counter() - began]))
