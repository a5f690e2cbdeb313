"""The picker over a large library of LoRA files: its server, and a page of it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import folder_paths
import psutil
import safetensors.torch
import torch

from strata.nodes.library import index as index_module
from strata.nodes.library import search as search_module
from strata.nodes.library.contents import Contents
from strata.nodes.library.search import Question, search

from .picker_page import page_rows
from .results import seconds, size, table

COMPARED = 2000  # of the files, whose contents are read
LAYERS = 24  # of each file: names and shapes of an SD1.5 LoRA's attention, in a header of about 6 kB


def picker(quick: bool) -> str:
    """Learning a library once, and answering from what was learned. Seconds by the clock."""
    count = 1000 if quick else 20_000
    rows = []
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as user:
        _save(Path(folder), count)
        folder_paths.folder_names_and_paths["loras"] = ([folder], {".safetensors"})
        folder_paths.filename_list_cache.clear()
        before, folder_paths.get_user_directory = folder_paths.get_user_directory, lambda: user
        try:
            memory = psutil.Process().memory_info().rss
            index = index_module.INDEX = search_module.INDEX = index_module.LoraIndex()
            rows.append(("first opening, nothing learned", seconds(_timed(lambda: search(Question())))))
            rows.append(("learning every file, in the background", seconds(_timed(lambda: index.wait(3600)))))
            rows.append(("opening", seconds(_best(lambda: search(Question())))))
            rows.append(("a page in the middle", seconds(_best(lambda: search(Question(start=count // 2))))))
            rows.append(("two words", seconds(_best(lambda: search(Question(words="style 77"))))))
            rows.append(
                ("newest first, only SD1.5", seconds(_best(lambda: search(Question(sort="date", fits="SD1.5")))))
            )
            index = index_module.INDEX = search_module.INDEX = index_module.LoraIndex()
            rows.append(("first opening of another start", seconds(_timed(lambda: search(Question())))))
            index.wait(3600)
            rows.append(("memory of the server", size(psutil.Process().memory_info().rss - memory)))
            rows += _contents(sorted(map(str, Path(folder).rglob("*.safetensors")))[:COMPARED])
        finally:
            folder_paths.get_user_directory = before
    rows += page_rows(_save, count)
    return table(
        f"The picker: {count} files in 200 folders",
        ("", ""),
        rows,
        "A page is 50 files. Each file holds the same LoRA of 52 kB. Seconds by the clock.",
        "On a page: a real server and headless Chromium, which draws without a GPU.",
    )


def _contents(paths: list[str]) -> list[tuple[str, str]]:
    """Reading and comparing the contents of some, and what that takes after another start."""
    rows = []
    for pass_ in ("first pass", "later pass, after another start"):
        contents = Contents()
        took = _timed(lambda contents=contents: (contents.start(lambda: paths), contents.wait(3600)))
        rows.append((f"reading and comparing {len(paths)}: {pass_}", seconds(took)))
    return rows


def _save(folder: Path, count: int) -> None:
    tensors = {}
    for layer in range(LAYERS):
        module = f"lora_unet_input_blocks_4_1_transformer_blocks_0_attn{layer % 2 + 1}_to_{'qkv'[layer % 3]}_{layer}"
        tensors[f"{module}.lora_up.weight"] = torch.zeros(320, 1, dtype=torch.float16)
        tensors[f"{module}.lora_down.weight"] = torch.zeros(1, 768, dtype=torch.float16)
    folder.mkdir(parents=True, exist_ok=True)
    packed = safetensors.torch.save(tensors, {"modelspec.title": "A title", "modelspec.trigger_phrase": "ohwx, style"})
    for number in range(200):
        (folder / f"folder {number}").mkdir()
    for number in range(count):
        (folder / f"folder {number % 200}" / f"style {number}.safetensors").write_bytes(packed)


def _timed(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _best(run) -> float:
    return min(_timed(run) for _ in range(5))
