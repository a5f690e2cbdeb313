"""Makes the pack importable as ``strata`` without running its entry point, and ComfyUI importable beside it.

The pack's own folder must never be on ``sys.path``: ``import nodes`` would then find our ``nodes/`` instead of ComfyUI's.
"""

import os
import sys
import types
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != ROOT]

if "strata" not in sys.modules:
    package = types.ModuleType("strata")
    package.__path__ = [str(ROOT)]
    sys.modules["strata"] = package

# Laws hold on a slow machine too.
hypothesis.settings.register_profile("strata", deadline=None)
hypothesis.settings.load_profile("strata")

# Set by ``python3 dev.py test``: the ComfyUI that the node tests run in.
COMFYUI = os.environ.get("COMFYUI_PATH")
if COMFYUI and COMFYUI not in sys.path:
    sys.path.append(COMFYUI)
    # Before comfy.model_management is imported, or it looks for a GPU.
    from comfy.cli_args import args

    args.cpu = True


def pytest_collection_modifyitems(items):
    """The browser's tests last: an open page takes its share of the processor until the session ends."""
    items.sort(key=lambda item: "browser" in item.path.parts)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One real ComfyUI server with this pack, the demo's checkpoint and a LoRA of each family that ``served_loras`` makes."""
    from strata.devtools.model_cache import demo_models, link_models
    from strata.devtools.server import ComfyServer
    from strata.tests import served_loras

    base = tmp_path_factory.mktemp("server")
    served_loras.save_all(base / "models" / "loras")
    link_models(demo_models(Path(COMFYUI), print), base)
    frontend = os.environ.get("STRATA_FRONTEND")  # another version of the editor, by ``dev.py test --frontend``
    arguments = ("--front-end-root", frontend) if frontend else ()
    with ComfyServer(Path(COMFYUI), base=base, arguments=arguments) as running:
        yield running
