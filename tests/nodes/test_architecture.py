"""What docs/architecture.md says of ComfyUI's internals and of the caches, against the code and against the ComfyUI that runs."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from comfy.model_patcher import ModelPatcher

from strata.devtools.server import ROOT
from strata.lora_math.errors import StrataError
from strata.nodes.comfy import internals, patch, web_server
from strata.nodes.comfy.library import CACHE, open_lora
from strata.nodes.comfy.live import attach
from strata.nodes.comfy.live_layers import layers_of, split
from strata.nodes.comfy.live_run import LiveLora
from strata.nodes.comfy.targets import model_targets
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import adapter_makers, core_models, lora_makers, sampling, small_models

CPU = torch.device("cpu")
COMFY = ROOT / "nodes" / "comfy"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LOOKUPS = ("find", "need")  # of nodes/comfy/internals.py
CACHE_TYPES = (
    "WeakKeyDictionary",
    "WeakValueDictionary",
    "OrderedDict",
    "LoraCache",
    "dict",
    "set",
    "list",
    "defaultdict",
)


class Row(NamedTuple):
    symbol: str
    files: frozenset[str]
    without: str


def table(title: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    section = DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


ROWS = [Row(cells[0].strip("`"), frozenset(cells[1].split(", ")), cells[4]) for cells in table("ComfyUI's internals")]


def owner(symbol: str):
    """The module or class that holds a symbol."""
    parts = symbol.split(".")[:-1]
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise ImportError(symbol)


@cache
def trees(folder: Path) -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(folder.rglob("*.py"))]


@cache
def modules_of_comfyui() -> set[str]:
    """What lies on the top level of ComfyUI's folder and can be imported."""
    comfyui = Path(os.environ["COMFYUI_PATH"])
    folders = {path.name for path in comfyui.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    return folders | {path.stem for path in comfyui.glob("*.py")} | {"comfy", "comfy_kitchen"}


def imported(tree: ast.AST) -> set[str]:
    """Whole names of what a file imports from elsewhere, or asks ``internals`` for."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found | looked_up(tree)


def looked_up(tree: ast.AST) -> set[str]:
    """What a file asks ``internals`` for: always by literal names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LOOKUPS:
            names = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
            if len(names) == 2:  # others have functions of these names too
                found.add(".".join(names))
    return found


def dotted(tree: ast.AST, roots: set[str]) -> set[str]:
    """``comfy.lora.calculate_weight`` and the like, wherever a module is reached through its name."""
    found = set()
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in roots and parts:
            found.add(".".join([node.id, *reversed(parts)]))
    return found


def symbols(tree: ast.AST) -> set[str]:
    """Functions and classes of ComfyUI that a file uses, without the modules that they are reached through."""
    roots = modules_of_comfyui() - {"nodes", "comfy_api"}
    found = {name for name in imported(tree) if name.split(".")[0] in roots}
    modules = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    found |= dotted(tree, {alias.name.split(".")[0] for node in modules for alias in node.names} & roots)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def attributes(tree: ast.AST) -> set[str]:
    """Every attribute that a file reads or writes of anything, by its name alone."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            found |= {argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)}
    return found


@cache
def members(kind: type) -> set[str]:
    """What objects of a class have: the class's own names, and what its methods set on ``self``."""
    found = {name for name in dir(kind) if not name.startswith("__")}
    for base in kind.__mro__[:-1]:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):
            continue
        found |= {node.attr for node in ast.walk(tree) if is_of_self(node)}
    return found


def is_of_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


@cache
def own_names() -> set[str]:
    """Every function, class, argument, field and variable of the pack, with all that Python and PyTorch call so."""
    found = set()
    for folder in ("nodes", "lora_math"):
        for _, tree in trees(ROOT / folder):
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    found.add(node.name)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found.add(node.target.id)
                elif is_of_self(node) and isinstance(node.ctx, ast.Store):
                    found.add(node.attr)
    for kind in (
        torch.Tensor,
        torch.nn.Identity(),
        torch.nn.Conv2d,
        torch.nn.MultiheadAttention,
        torch,
        dict,
        list,
        str,
        set,
    ):
        found |= set(dir(kind))
    for module in (os, os.path, re, builtins):
        found |= set(dir(module))
    return found | {"weight", "bias"}


SYMBOLS = [row for row in ROWS if inspect.ismodule(owner(row.symbol))]
MEMBERS = [row for row in ROWS if inspect.isclass(owner(row.symbol))]
# What only one feature needs: ``need`` and ``find`` are for these.
SOFT = sorted({name for _, tree in trees(COMFY) for name in looked_up(tree)})
# What every LoRA needs, which is not looked for before the first is applied. The list of files is needed by the nodes themselves.
HARD = sorted({row.symbol for row in SYMBOLS if row.without.startswith("nothing works")} - set(SOFT))
AFTER_START = [symbol for symbol in HARD if not symbol.startswith("folder_paths.")]


def test_the_tables_are_read():
    assert len(SYMBOLS) > 15
    assert len(MEMBERS) > 25
    assert len(SYMBOLS) + len(MEMBERS) == len(ROWS)


def test_every_function_and_class_of_comfyui_is_listed_with_its_files():
    used = defaultdict(set)
    for path, tree in trees(COMFY):
        for name in symbols(tree):
            used[name].add(path.name)
    assert {name: frozenset(files) for name, files in used.items()} == {row.symbol: row.files for row in SYMBOLS}


def test_every_member_of_comfyuis_objects_is_listed_with_its_files():
    """As far as a name tells whose it is: what PyTorch or this pack calls so too may be listed, and need not."""
    used = defaultdict(set)
    for path, tree in trees(COMFY):
        for name in attributes(tree):
            used[name].add(path.name)
    kinds = {owner(row.symbol) for row in MEMBERS}
    theirs = set().union(*(members(kind) for kind in kinds)) - own_names()
    assert {"hook_backup", "patches_uuid", "set_attachments", "class_obj"} <= theirs
    listed = defaultdict(set)
    for row in MEMBERS:
        listed[row.symbol.rpartition(".")[2]] |= row.files
    assert {name for name in used if name in theirs} - set(listed) == set()
    wrong = {name: files for name, files in listed.items() if name in theirs and files != used[name]}
    wrong |= {name: files for name, files in listed.items() if not files <= used[name]}
    assert wrong == {}


@pytest.mark.parametrize("symbol", [row.symbol for row in ROWS])
def test_this_comfyui_has_it(symbol):
    place, name = owner(symbol), symbol.rpartition(".")[2]
    assert name in members(place) if inspect.isclass(place) else hasattr(place, name)


def test_nothing_else_touches_them():
    """Outside nodes/comfy/ only ``comfy_api``; of ComfyUI's objects, what is theirs alone."""
    roots = modules_of_comfyui() - {"comfy_api"}
    # What nobody else has a member of that name.
    theirs = {row.symbol.rpartition(".")[2] for row in MEMBERS} - own_names()
    assert {"hook_backup", "patches_uuid", "set_attachments"} <= theirs
    for folder in ("nodes", "lora_math"):
        for path, tree in trees(ROOT / folder):
            if COMFY not in path.parents:
                assert {name for name in imported(tree) if name.split(".")[0] in roots} == set(), path
                assert attributes(tree) & theirs == set(), path


def test_lora_math_knows_nobody_but_torch_and_what_reads_files():
    for path, tree in trees(ROOT / "lora_math"):
        known = sys.stdlib_module_names | {"torch", "numpy", "safetensors"}
        assert {name.split(".")[0] for name in imported(tree)} <= known, path
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                depth = len(path.relative_to(ROOT / "lora_math").parts)
                assert node.level <= depth, f"{path} reaches out of lora_math"


def test_every_cache_is_listed():
    found = set()
    for folder in ("nodes", "lora_math"):
        for path, tree in trees(ROOT / folder):
            where = path.relative_to(ROOT).as_posix()
            found |= {f"{where}: {name}" for name in caches(tree)}
    assert found == {cells[0].strip("`") for cells in table("Caches")}


def caches(tree: ast.Module):
    """Functions that keep what they returned, and module-level containers that something is put into."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                name = decorator.func if isinstance(decorator, ast.Call) else decorator
                if isinstance(name, ast.Name) and name.id in ("lru_cache", "cache"):
                    yield node.name
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            called = isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name)
            empty = called and node.value.func.id in CACHE_TYPES and not node.value.args
            if empty and target.id not in filled_by_decorators(tree):
                yield target.id


def filled_by_decorators(tree: ast.Module) -> set[str]:
    """Tables that are filled once, while the module is imported: at its top level or in ``__init_subclass__``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__init_subclass__":
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return found


CHILD = """
import asyncio, importlib, importlib.util, sys
comfyui, pack, *symbols = sys.argv[1:]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True
import comfy_api.latest, execution, nodes, server

def load(name):
    spec = importlib.util.spec_from_file_location(name, pack + "/__init__.py", submodule_search_locations=[pack])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    extension = asyncio.run(sys.modules[name].comfy_entrypoint())
    asyncio.run(extension.on_load())
    found = asyncio.run(extension.get_node_list())
    for node in found:
        node.GET_SCHEMA()
    return len(found)

expected = load("whole")
assert expected >= 3
for number, symbol in enumerate(symbols):
    module, _, name = symbol.rpartition(".")
    module = importlib.import_module(module)
    kept = getattr(module, name)
    delattr(module, name)
    try:
        assert load(f"pack{number}") == expected, symbol
    except BaseException as problem:
        raise SystemExit(f"without {symbol}: {problem!r}")
    setattr(module, name, kept)
print("loaded", len(symbols))
"""


def test_the_nodes_load_without_what_an_execution_needs(tmp_path):
    """Each alone is deleted in a fresh process, which then loads the pack as ComfyUI does. Without a running server, too."""
    assert len(SOFT) >= 10
    assert {"comfy.model_patcher.ModelPatcher", "comfy.weight_adapter.base.WeightAdapterBase"} <= set(AFTER_START)
    symbols = [*SOFT, *AFTER_START]
    command = [sys.executable, "-c", CHILD, os.environ["COMFYUI_PATH"], str(ROOT), *symbols]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["loaded", str(len(symbols))]


@pytest.fixture
def gone(monkeypatch, caplog):
    """``gone(symbol)`` takes it out of ComfyUI; ``gone.said()`` is what the log said of it since."""
    monkeypatch.setattr(internals, "_missed", set())

    def take(symbol: str) -> str:
        monkeypatch.delattr(owner(symbol), symbol.rpartition(".")[2])
        return symbol

    take.said = lambda: [
        record.getMessage() for record in caplog.records if "This ComfyUI has no" in record.getMessage()
    ]
    return take


def test_patches_work_without_the_clean_up_after_half_a_loading(gone, lora_folder):
    names = [gone(f"comfy.patcher_extension.{kind}") for kind in ("CallbacksMP", "WrappersMP")]
    names.append(gone("comfy.model_patcher.wipe_lowvram_weight"))
    model = sampling.MODELS["SD1.5"]()
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model, prefix="diffusion_model.", seed=1))
    patched = StrataLoraLoader.execute(name, 1.0, 1.0, model=model).result[0]
    assert patched.patches
    patch._free_layers(patched, True)
    assert [any(name in said for said in gone.said()) for name in names] == [True] * 3
    count = len(gone.said())
    StrataLoraLoader.execute(name, 0.5, 1.0, model=model)
    assert len(gone.said()) == count  # once


@pytest.mark.parametrize("name", ["comfy.patcher_extension.WrappersMP", "comfy.patcher_extension.CallbacksMP"])
def test_live_says_what_it_lacks(gone, lora_folder, name):
    model = sampling.MODELS["SD1.5"]()
    live = model.clone()
    attach(live, LiveLora(split(model, adapter_makers.everywhere(model, adapter_makers.lora))[0], "test"))
    run = live.model_options["transformer_options"]["wrappers"]["prepare_sampling"]["strata_live"][0]
    gone(name)
    with pytest.raises(StrataError, match=f"apply = live cannot work with this ComfyUI: it has no {re.escape(name)}"):
        run(lambda *_: None, live)


def test_a_live_dora_says_what_it_lacks(gone):
    model = sampling.MODELS["SD1.5"]()
    changes = adapter_makers.everywhere(model, adapter_makers.MAKERS["DoRA"])
    live = model.clone()
    attach(live, LiveLora(split(model, changes)[0], "test"))
    name = gone("comfy.model_patcher.get_key_weight")
    with pytest.raises(StrataError, match=f"it has no {re.escape(name)}"):
        sampling.sample(live, "SD1.5", steps=1)


def test_quantised_layers_are_patched_where_they_are_not_known(gone):
    model = small_models.flux().model
    before = layers_of(model)
    name = gone("comfy.ops.CastWeightBiasOp")
    assert layers_of(model).keys() == before.keys()  # plain layers need no name of ComfyUI's
    assert any(name in said for said in gone.said())


def test_quantised_weights_count_as_plain_where_they_are_not_known(gone):
    name = gone("comfy.quant_ops.QuantizedTensor")
    assert model_targets(sampling.MODELS["SD1.5"]()).coarse == frozenset()
    assert any(name in said for said in gone.said())


def test_a_swapped_layer_is_left_over(gone, monkeypatch):
    """ComfyUI's own key map needs the function too: here only this pack does not find it."""
    look_up = internals._look_up
    monkeypatch.setattr(internals, "_look_up", lambda *name: None if "swap_scale_shift" in name else look_up(*name))
    targets = model_targets(ModelPatcher(core_models.build("Mochi"), CPU, CPU))  # not one that other tests keep
    assert targets.find("lora_unet_transformer_blocks_0_ff_net_0_proj", "weight") == ()
    assert targets.find("lora_unet_transformer_blocks_0_ff_net_2", "weight")
    assert any("comfy.utils.swap_scale_shift" in said for said in gone.said())


def test_files_open_without_comfyuis_renamings(gone, lora_folder):
    model = sampling.MODELS["SD1.5"]()
    file = lora_folder.save("a.safetensors", lora_makers.full_lora(model, prefix="diffusion_model.", seed=1))
    CACHE.clear()
    name = gone("comfy.lora_convert.convert_lora")
    assert open_lora(file, str(lora_folder.path / file)).contents.entries
    assert any(name in said for said in gone.said())


def test_no_routes_without_a_server(gone):
    name = gone("server.PromptServer")
    assert web_server.web_server() is None
    assert any(name in said for said in gone.said())
