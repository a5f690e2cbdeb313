"""What Inspect LoRA and ``lora_math library`` take, beside reading the same numbers once."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import folder_paths
import safetensors.torch
import torch

from strata.lora_math.adapters import LoRA
from strata.lora_math.baking import layers_by_name
from strata.lora_math.inspecting import library
from strata.lora_math.inspecting.layers import measure
from strata.lora_math.inspecting.one import numbers
from strata.lora_math.inspecting.several import meet, together
from strata.lora_math.reading.state_dict import Entry
from strata.nodes.inspect_lora import StrataLoraInspect

from . import models
from .results import seconds, table

# Layers [out, in] of the published models that LoRAs are trained on.
SDXL = [(1280, 1280)] * 420 + [(1280, 2048)] * 120 + [(10240, 1280)] * 60 + [(1280, 5120)] * 60 + [(640, 640)] * 62
# Whole files of SDXL.
LARGE = 6
_DOUBLE = [(9216, 3072), (3072, 3072), (12288, 3072), (3072, 12288), (18432, 3072)] * 2
FLUX = _DOUBLE * 19 + [(21504, 3072), (3072, 15360), (9216, 3072)] * 38


def inspecting(quick: bool) -> str:
    """Seconds by the clock; ``beside`` casts all numbers of the same LoRAs to float64, which any exact analysis has to do first."""
    part = 6 if quick else 1
    rows = []
    for name, shapes, rank in (("SDXL", SDXL, 32), ("FLUX", FLUX, 128)):
        lora = _lora(shapes[::part], rank, 0)
        took = _timed(lambda lora=lora: numbers(measure(lora), [""] * len(lora)))
        rows.append((f"{name}, rank {rank}: all numbers of one", len(lora), *_beside(took, [lora])))
    pair = [_lora(FLUX[::part], 32, seed) for seed in (0, 1)]
    rows.append(("FLUX, rank 32: two compared", len(pair[0]), *_beside(_timed(lambda: _compared(pair)), pair)))
    count = 200 if quick else 2000
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder), count)
        reading = _timed(lambda: [path.read_bytes() for path in Path(folder).iterdir()])
        first = _timed(lambda: library.look_through(folder))
        index = f"{folder}/known.json"
        library.write_index(index, library.look_through(folder).files)
        later = _timed(lambda: library.look_through(folder, library.read_index(index)))
    rows.append((f"{count} files, first pass", count, seconds(first), seconds(reading), f"{first / reading:.2f}"))
    rows.append((f"{count} files, later pass", count, seconds(later), seconds(reading), f"{later / reading:.2f}"))
    with tempfile.TemporaryDirectory() as folder:
        _save_large(Path(folder), 1 if quick else LARGE)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
        _forget(folder)
        reading = _timed(lambda: [path.read_bytes() for path in Path(folder).iterdir()])
        _forget(folder)
        first = _timed(lambda: library.look_through(folder))
    label = f"{1 if quick else LARGE} files of SDXL, rank 32, {size:.0f} MB, from the disk, first pass"
    rows.append((label, 1 if quick else LARGE, seconds(first), seconds(reading), f"{first / reading:.2f}"))
    for name, model, rank in [
        ("SDXL", lambda: models.build("SDXL", torch.float16), 32),
        ("FLUX", models.whole_flux, 128),
    ]:
        lora = models.lora(model(), 4 if quick else rank)
        with tempfile.TemporaryDirectory() as folder:
            took, reading = _reports(Path(folder), lora)
        size = sum(tensor.nbytes for tensor in lora.values()) / 1e6
        label = f"{name}, rank {4 if quick else rank}, {size:.0f} MB: the node, from file to picture"
        rows.append((label, len(lora) // 3, seconds(took), seconds(reading), f"{took / reading:.2f}"))
    notes = (
        "The node's rows: the median of three new files, all in the disk's cache.",
        "The first files of the library are of 0.4 MB each, in the disk's cache: for them it is their number that counts.",
        f"Seconds by the clock; threads: {torch.get_num_threads()}.",
    )
    return table("Inspecting LoRAs", ("", "layers or files", "Strata", "reading them", "ratio"), rows, *notes)


def _lora(shapes, rank: int, seed: int) -> list[Entry]:
    make = torch.Generator().manual_seed(seed)
    found = []
    for at, (out, columns) in enumerate(shapes):
        up, down = (torch.randn(size, generator=make).mul_(0.02).half() for size in ((out, rank), (rank, columns)))
        found.append(Entry(f"lora_unet_{at}_x", "weight", LoRA(up, down), ()))
    return found


def _reports(folder: Path, lora: dict[str, torch.Tensor]) -> tuple[float, float]:
    """(seconds of Inspect LoRA for a file that it has not met, seconds of reading its bytes)."""
    before = folder_paths.folder_names_and_paths["loras"]
    folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    took, reading = [], []
    try:
        for number in range(3):
            path = folder / f"{number}.safetensors"
            safetensors.torch.save_file(lora, path)
            folder_paths.filename_list_cache.clear()
            reading.append(_timed(path.read_bytes))
            took.append(_timed(lambda path=path: StrataLoraInspect.execute(path.name, "dark")))
            path.unlink()
    finally:
        folder_paths.folder_names_and_paths["loras"] = before
        folder_paths.filename_list_cache.clear()
    return statistics.median(took), statistics.median(reading)


def _compared(pair) -> None:
    found = meet(layers_by_name(pair))
    together(found.layers, [[1.0] * len(meeting.at) for meeting in found.layers], 2)


def _beside(took: float, loras) -> tuple[str, str, str]:
    def cast() -> None:
        for lora in loras:
            for entry in lora:
                entry.adapter.up.double()
                entry.adapter.down.double()

    reading = _timed(cast)
    return seconds(took), seconds(reading), f"{took / reading:.2f}"


def _save(folder: Path, count: int) -> None:
    for number in range(count):
        make = torch.Generator().manual_seed(number)
        tensors = {}
        for layer in range(12):
            module = f"lora_unet_input_blocks_4_1_transformer_blocks_{layer}_attn1_to_q"
            tensors[f"{module}.lora_up.weight"] = torch.randn(640, 16, generator=make).half()
            tensors[f"{module}.lora_down.weight"] = torch.randn(16, 640, generator=make).half()
        safetensors.torch.save_file(tensors, folder / f"style {number}.safetensors")


def _save_large(folder: Path, count: int) -> None:
    for number in range(count):
        tensors = {}
        for entry in _lora(SDXL, 32, number):
            tensors[f"{entry.module}.lora_up.weight"] = entry.adapter.up
            tensors[f"{entry.module}.lora_down.weight"] = entry.adapter.down
        safetensors.torch.save_file(tensors, folder / f"large {number}.safetensors")


def _forget(folder: str) -> None:
    """Takes the files out of the disk's cache."""
    for path in Path(folder).iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _timed(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
