"""What the pack adds to ComfyUI's start, in a fresh process that has loaded ComfyUI already, and what its first execution adds."""

import json
import os
import subprocess
import sys

import pytest

from strata.devtools.server import ROOT

# Times what ComfyUI's own extra nodes cost, loaded the same way. Measured: 0.94 to 0.95 for eleven nodes, and 2.0 where a start loads all
# that an execution needs.
LIMIT = 1.4
# What a start loads: the nodes, and the leaves that their schemas and the checks before a run need. Whatever is not here is loaded
# where it is used ("What a start loads" in docs/architecture.md); a line more is for a leaf that a schema cannot do without.
ROOMS = {
    "lora_math": "choices errors extremes families names numbers regions rows_text schedule spellings tag_places "
    "tag_surroundings tag_time tags wording",
    "lora_math.blocks": "builtin commented_json errors grammar groups layout legacy parts preset_saving presets selector text "
    "vectors weights",
    "nodes": "block_weights extract image_grid inspect_lora loader lora_stack lora_sweep prompt save schedule sweep_values "
    "inputs routes seen_files stack",
    "nodes.comfy": "drawing internals live_regions live_time lora_names noise_steps saving user_files web_server",
    "nodes.fitting": "block_spec",
    "nodes.inspecting": "themes",
    "nodes.saving": "options",
    "nodes.sweep": "axes plan sheet_inputs values",
}
AT_START = sorted([*ROOMS, *(f"{room}.{name}" for room, names in ROOMS.items() for name in names.split())])
# Loads the pack as ComfyUI does, several times under other names: only the first may find modules that are not loaded yet.
# Compiled files go into a folder of the test, for this process may have been told not to write any.
CHILD = """
import asyncio, importlib.util, json, pathlib, statistics, sys, threading, time
comfyui, pack, compiled = sys.argv[1:]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True
import comfy_api.latest, execution, nodes, server
sys.pycache_prefix, sys.dont_write_bytecode = compiled, False

def modules(name):
    return {key.partition(".")[2] for key in sys.modules if key.startswith(name + ".")}

def load(name, path, folders=None):
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]

def ours(number):
    extension = asyncio.run(load(f"pack{number}", pack + "/__init__.py", [pack]).comfy_entrypoint())
    asyncio.run(extension.on_load())
    found = {node.__name__: node for node in asyncio.run(extension.get_node_list())}
    for node in found.values():
        node.GET_SCHEMA()
    return found

def core(number):
    for path in sorted(pathlib.Path(comfyui, "comfy_extras").glob("nodes_*.py")):
        try:
            load(f"extra{number}_{path.stem}", path)
        except ImportError:  # some need packages that not everyone has
            pass

before = set(sys.modules)
ours(0)
added = sorted(name for name in set(sys.modules) - before if name.split(".")[0] != "pack0")
at_start = sorted(modules("pack0"))
core(0)
ratios, seconds = [], []
for number in range(1, 8):
    times = []
    for run in (core, ours):
        began = time.process_time()
        run(number)
        times.append(time.process_time() - began)
    seconds.append(times)
    ratios.append(times[1] / times[0])

# First executions, all at once and in ComfyUI's inference mode: where a module made a tensor, no gradient would ever go through it.
import torch
nodes_of_pack = ours("first")
first = [
    lambda: nodes_of_pack["StrataLoraFromPrompt"].execute("plain text"),
    lambda: nodes_of_pack["StrataLoraStack"].execute(""),
    lambda: nodes_of_pack["StrataLoraStack"].fingerprint_inputs("<lora:none:1>"),
    lambda: nodes_of_pack["StrataLoraLoader"].fingerprint_inputs("none.safetensors"),
    lambda: nodes_of_pack["StrataLoraBlockWeights"].execute(weights="IN4-8=0.5"),
] * 3
together, wrong = threading.Barrier(len(first)), []

def execute(run):
    together.wait()
    try:
        with torch.inference_mode():
            run()
    except BaseException as problem:
        wrong.append(repr(problem))

threads = [threading.Thread(target=execute, args=(run,)) for run in first]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
tensors = sorted(
    f"{name}.{key}"
    for name, module in list(sys.modules.items())
    if name.startswith("packfirst.")
    for key, value in vars(module).items()
    if isinstance(value, torch.Tensor)
)
print(json.dumps({
    "added": added, "at_start": at_start, "ratio": statistics.median(ratios), "core and ours": seconds,
    "wrong": wrong, "first": sorted(modules("packfirst")), "tensors": tensors,
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("import")
    command = [sys.executable, "-c", CHILD, os.environ["COMFYUI_PATH"], str(ROOT), str(folder)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_pack_is_cheap_and_loads_nothing_heavy(found):
    # No package that ComfyUI does not load itself: the standard library only.
    assert {name.split(".")[0] for name in found["added"]} <= sys.stdlib_module_names
    assert found["ratio"] < LIMIT, found


def test_a_start_loads_what_schemas_and_checks_need_and_no_more(found):
    assert found["at_start"] == AT_START


def test_first_executions_at_the_same_time_load_the_rest(found):
    assert found["wrong"] == []
    assert {"nodes.apply", "nodes.apply_lora", "nodes.pairs", "nodes.comfy.library", "lora_math.adapters.lora"} <= set(
        found["first"]
    )
    assert found["tensors"] == []
