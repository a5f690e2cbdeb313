"""Several versions of this pack in one process, in turn: what a change of the code costs."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from . import models
from .loras import lora_files
from .machine import Times, alternate, ratio
from .results import seconds, table

NOW = "now"
_number = itertools.count()


def against(others: Sequence[Path], quick: bool) -> str:
    """This version against those in other folders: lines of code, importing, and the loader on SD1.5 and SDXL, cold and warm."""
    roots = {**{path.name: path.resolve() for path in others}, NOW: Path(__file__).resolve().parents[1]}
    parts = (_lines(roots), _importing(roots, 3 if quick else 15), _loading(roots, 3 if quick else 9))
    return "\n\n".join(parts)


def _lines(roots: Mapping[str, Path]) -> str:
    """Python, JavaScript and style sheets that users get, room by room."""
    counts = [_rooms(root) for root in roots.values()]
    rows = [(room, *(count[room] for count in counts)) for room in sorted(set().union(*counts))]
    rows.append(("in all", *(sum(count.values()) for count in counts)))
    return table("Lines of each room", ("room", *roots), rows)


def _rooms(root: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for folder, ending in (("lora_math", "py"), ("nodes", "py"), ("web", "js"), ("web", "css")):
        for path in (root / folder).rglob(f"*.{ending}"):
            found[path.parent.relative_to(root).as_posix()] += len(path.read_text(encoding="utf-8").splitlines())
    return found


def _load(root: Path) -> tuple[str, list]:
    """The pack as ComfyUI loads it, under a name of its own, and its nodes with their schemas made."""
    name = f"pack{next(_number)}"
    spec = importlib.util.spec_from_file_location(name, root / "__init__.py", submodule_search_locations=[str(root)])
    pack = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    for node in nodes:
        node.GET_SCHEMA()
    return name, nodes


def _importing(roots: Mapping[str, Path], rounds: int) -> str:
    # Python keeps what it has compiled: not beside the versions, and also where it was told not to.
    with tempfile.TemporaryDirectory() as folder:
        before = sys.pycache_prefix, sys.dont_write_bytecode
        sys.pycache_prefix, sys.dont_write_bytecode = folder, False
        try:
            found = alternate(rounds, **{way: partial(_load, root) for way, root in roots.items()})
            rows = [(way, len(_load(root)[1]), *_beside(found, way)) for way, root in roots.items()]
        finally:
            sys.pycache_prefix, sys.dont_write_bytecode = before
    return table("Importing the pack", ("version", "nodes", "time", "version / now"), rows)


def _loading(roots: Mapping[str, Path], rounds: int) -> str:
    packs = {way: _load(root) for way, root in roots.items()}
    rows = []
    for model_name in ("SD1.5", "SDXL"):
        model = models.build(model_name, torch.float16)
        with tempfile.TemporaryDirectory() as folder:
            (file,) = lora_files(Path(folder), models.lora(model, 16), 1)
            for state in ("cold", "warm"):
                found = alternate(
                    rounds, **{way: partial(_run, *pack, model, file, state) for way, pack in packs.items()}
                )
                rows += [(model_name, state, way, *_beside(found, way)) for way in packs]
    return table(
        "The loader node",
        ("model", "", "version", "time", "version / now"),
        rows,
        "One LoRA of rank 16. Cold reads and understands the file and lists the model's names; warm is two moves of its slider.",
    )


def _beside(found: Mapping[str, Times], way: str) -> tuple[str, object]:
    return seconds(found[way].median), "" if way == NOW else ratio(found[way], found[NOW])


def _run(name: str, nodes: Sequence[type], model, file: str, state: str) -> None:
    library, targets = (importlib.import_module(f"{name}.nodes.comfy.{part}") for part in ("library", "targets"))
    if state == "cold":
        library.CACHE.clear()
        targets._known.clear()
    loader = next(node for node in nodes if node.__name__ == "StrataLoraLoader")
    for strength in (0.8,) if state == "cold" else (0.81, 0.79):
        loader.execute(file, strength, 0.0, model=model)
