"""What a large library, a full preset file and hostile inputs cost, and whether twice the input takes twice the time."""

from __future__ import annotations

import contextlib
import gc
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import folder_paths
import torch

from strata.lora_math.adapters import LoHa
from strata.lora_math.blocks import builtin_layout, parse, save_preset
from strata.lora_math.blocks.commented_json import without_comments
from strata.lora_math.errors import StrataError
from strata.lora_math.reading.patterns import Patterns
from strata.lora_math.tags import read_tags
from strata.nodes.comfy import lora_names
from strata.nodes.fitting import block_spec
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.rows import words

from . import loras, models
from .machine import alternate, ratio
from .results import seconds, table

FILES, FOLDERS = 20_000, 400
PRESETS, SIDECAR = 60, 2_000_000


def bounds(quick: bool) -> str:
    gc.freeze()  # what ComfyUI and the models hold is not looked through again before each of many short measurements
    try:
        return "\n\n".join((names(quick), slider(quick), worst(quick)))
    finally:
        gc.unfreeze()


def names(quick: bool) -> str:
    """A name in a workflow among many files."""
    with tempfile.TemporaryDirectory() as folder:
        listed = [f"set {n % FOLDERS}/Some Style {n}.safetensors" for n in range(FILES // 10 if quick else FILES)]
        for n in range(FOLDERS):
            (Path(folder) / f"set {n}").mkdir()
        for name in listed:
            (Path(folder) / name).touch()
        folder_paths.folder_names_and_paths["loras"] = ([folder], {".safetensors"})
        folder_paths.filename_list_cache.clear()
        asked = iter(range(len(listed) // 2, len(listed)))

        def first() -> None:
            lora_names._index = lora_names.NameIndex([])
            lora_names.locate("SOME STYLE 7")

        def missing() -> None:
            try:
                lora_names.locate(f"some stile {next(asked)}")
            except StrataError:
                return
            raise AssertionError

        cases = {
            "ComfyUI's list alone": lora_names.lora_names,
            "the name as it is listed": lambda: lora_names.locate(listed[next(asked)]),
            "a path of another system": lambda: lora_names.locate(
                "C:\\loras\\" + listed[next(asked)].replace("/", "\\")
            ),
            "moved to another folder": lambda: lora_names.locate(f"old/some style {next(asked)}"),
            "none, with what is nearly so": missing,
            "the first one after the list has changed": first,
        }
        found = alternate(3 if quick else 15, **{str(at): case for at, case in enumerate(cases.values())})
    rows = [(label, seconds(found[str(at)].median)) for at, label in enumerate(cases)]
    return table(f"One name among {len(listed)} LoRA files", ("the name", "time"), rows, f"In {FOLDERS} folders.")


def slider(quick: bool) -> str:
    """A moved slider beside files that are read once."""
    model = models.build("SD1.5", torch.float16)
    with tempfile.TemporaryDirectory() as folder:
        plain, full = loras.lora_files(Path(folder), models.lora(model, 4), 2)
        (Path(folder) / "1.json").write_text(json.dumps({"activation text": "ohwx", "notes": "x" * SIDECAR}))
        presets = Path(folder) / "own" / "block_presets.json"
        for n in range(PRESETS):
            save_preset(presets, ("SD1.5", None)[n % 2], f"mine {n}", f"default=0.{n}")
        with mock.patch.object(block_spec, "user_preset_file", lambda: str(presets)):
            run = lambda name, blocks: StrataLoraLoader.execute(name, 0.8, 0.0, model=model, block_weights=blocks)  # noqa: E731
            run(plain, "default=0.58"), run(full, "mine 58")
            found = alternate(
                3 if quick else 15, plain=partial(run, plain, "default=0.58"), full=partial(run, full, "mine 58")
            )
    a, b = found["plain"], found["full"]
    rows = [("SD1.5", seconds(a.median), seconds(b.median), ratio(b, a))]
    return table(
        "A moved slider beside a sidecar and own presets",
        ("model", "neither", f"a sidecar of 2 MB, {PRESETS} own presets", "both / neither"),
        rows,
        "Both are read when they change, not at every run.",
    )


def worst(quick: bool) -> str:
    """The worst inputs that were found, at a size and at twice that."""
    rows = []
    for label, make, run in _hostile():
        n = 1 if quick else 4
        small, large = make(n), make(2 * n)
        found = alternate(2 if quick else 5, small=partial(_refused, run, small), large=partial(_refused, run, large))
        rows.append(
            (
                label,
                seconds(found["small"].median),
                seconds(found["large"].median),
                ratio(found["large"], found["small"]),
            )
        )
    return table(
        "Hostile inputs, and twice as long ones",
        ("input", "one", "two", "two / one"),
        rows,
        "What is read in one pass takes about twice as long. The groups took 90 s at 32, the row of # 10 s at 26, the spaces 15 s.",
    )


def _hostile() -> list[tuple[str, Callable, Callable]]:
    sdxl = builtin_layout("SDXL")
    modules = [f"transformer.double_blocks.{n}.img_attn.to_q" for n in range(2000)]

    def match(texts: list[str]) -> None:
        patterns = Patterns(texts)
        for module in modules:
            patterns.first(module)

    def energy(size: int) -> None:
        factors = torch.ones(size, 4), torch.ones(4, size)
        LoHa(*factors, *factors).squared_norm((size, size))

    def described(question: tuple[str, list[str]]) -> None:
        text, names = question
        with mock.patch.object(words, "lora_names", lambda: names):
            words.described(text)

    def asked(row: str, n: int) -> tuple[str, list[str]]:
        """Twice the rows about twice the files."""
        return "\n".join(row.format(at) for at in range(250 * n)), [f"many/m{at}.pt" for at in range(1250 * n)]

    return [
        ("1000 rows that pick of 5000 files", partial(asked, "pick <lora:many/*:1>"), described),
        ("1000 rows without a file, beside 5000 files", partial(asked, "<lora:m{}x:1>"), described),
        ("alpha_pattern of 1000 groups (a or aa)", lambda n: ["(a|aa)" * (250 * n)], match),
        (
            "1000 expressions blocks.N.*to_q on 2000 layers",
            lambda n: [f"blocks.{i}.*to_q" for i in range(250 * n)],
            match,
        ),
        ("a comment of 100 kB of #", lambda n: "#" * (25_000 * n), without_comments),
        ("quotes and backslashes, 100 kB", lambda n: '\\"' * (12_500 * n), without_comments),
        ("weights of 8000 spaces", lambda n: "IN4" + " " * (2000 * n) + "=0", lambda text: parse(text, sdxl)),
        (
            "weights of 400 rules",
            lambda n: ",".join(f"IN{i}.attn=0" for i in range(100 * n)),
            lambda text: parse(text, sdxl),
        ),
        ("a tag behind 100 kB of spaces", lambda n: " " * (25_000 * n) + "<lora:x>", read_tags),
        ("a tag of 100 kB of digits", lambda n: f"<lora:x:{'1' * (25_000 * n)}x>", read_tags),
        ("LoHa that claims 100000 x 100000", lambda n: 25_000 * n, energy),
    ]


def _refused(run: Callable, value) -> None:
    with contextlib.suppress(StrataError):
        run(value)
