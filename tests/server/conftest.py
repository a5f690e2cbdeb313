"""One real ComfyUI server for all tests here, with the pack in a folder of an unusual name and the demo's small models."""

import os
import sys
from pathlib import Path

import pytest

from strata.devtools.model_cache import demo_models, link_models
from strata.devtools.server import ComfyServer


@pytest.fixture(scope="session")
def comfyui():
    return Path(os.environ["COMFYUI_PATH"])


@pytest.fixture(scope="session")
def server(comfyui):
    with ComfyServer(comfyui, python=sys.executable, folder_name="My strata (copy)") as running:
        link_models(demo_models(comfyui, say=lambda text: None), running.base)
        yield running
