"""What the pack adds to ComfyUI's start, in a fresh process that has loaded ComfyUI already."""

import json
import os
import subprocess
import sys

from strata.devtools.server import ROOT

BUDGET = 0.1  # seconds of one CPU; about 45 ms on a machine of two slow cores
# Loads the pack as ComfyUI does, several times under other names: only the first may find modules that are not loaded yet.
CHILD = """
import asyncio, importlib.util, json, statistics, sys, time
comfyui, pack = sys.argv[1:]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True
import comfy_api.latest, execution, nodes, server

def load(name):
    began = time.process_time()
    spec = importlib.util.spec_from_file_location(name, pack + "/__init__.py", submodule_search_locations=[pack])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    extension = asyncio.run(sys.modules[name].comfy_entrypoint())
    for node in asyncio.run(extension.get_node_list()):
        node.GET_SCHEMA()
    return time.process_time() - began

before = set(sys.modules)
load("pack0")
added = sorted(name for name in set(sys.modules) - before if name.split(".")[0] != "pack0")
print(json.dumps({"added": added, "seconds": statistics.median(load(f"pack{n}") for n in range(1, 8))}))
"""


def test_importing_the_pack_is_cheap_and_loads_nothing_heavy(tmp_path):
    # Users have compiled files; this process may have been told not to write any.
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONPATH": ""}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", CHILD, os.environ["COMFYUI_PATH"], str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # No package that ComfyUI does not load itself: the standard library only.
    assert {name.split(".")[0] for name in found["added"]} <= sys.stdlib_module_names
    assert found["seconds"] < BUDGET
