"""A server that is killed in the middle of a sweep loses at most the cell that was running; the rest is as if nothing had happened."""

import io
import sys
import time
from urllib.parse import urlencode

import pytest
from PIL import Image

from strata.devtools.model_cache import demo_models, link_models
from strata.devtools.models import CHECKPOINT, LORAS
from strata.devtools.server import ComfyServer

STEPS, CELLS = 6, 6


def prompt(prefix):
    axes = {
        "x_axis": "strength",
        "x_values": "0.2-1.2(+0.2)",
        "y_axis": "none",
        "y_values": "",
        "z_axis": "none",
        "z_values": "",
    }
    asked = {"lora_name": LORAS[0], "positive": "a fox", "negative": "", "seed": 1, "steps": STEPS, "cfg": 1.0}
    wires = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "latent_image": ["2", 0]}
    more = {"sampler_name": "euler", "scheduler": "simple", "compare_with": "nothing", "filename_prefix": prefix}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "StrataSweep", "inputs": {**wires, **asked, **axes, **more}},
    }


def swept(server, prefix):
    """(report, pixels of the grid)."""
    shown = server.run(prompt(prefix))["outputs"]["3"]
    (file,) = shown["strata_sweep"][0]["grid"]
    png = server.get(f"/view?{urlencode(file)}")
    return shown["strata_report"][0], Image.open(io.BytesIO(png)).tobytes()


@pytest.fixture
def killable(comfyui, tmp_path):
    server = ComfyServer(comfyui, python=sys.executable, base=tmp_path / "base")
    link_models(demo_models(comfyui, say=lambda text: None), server.base)
    with server:
        yield server


def test_a_killed_sweep_loses_at_most_the_running_cell(killable):
    server = killable
    server.queue(prompt("killed/x"))
    deadline = time.monotonic() + 240
    folder = server.base / "output" / "killed"
    while len(list(folder.glob("x_*.png"))) < 2:
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.01)
    server._process.kill()
    server._process.wait()
    kept = list(folder.glob("x_*.png"))
    assert 2 <= len(kept) < CELLS
    assert all(Image.open(path).size == (64, 64) for path in kept)
    server.stop()
    server.start()
    report, grid = swept(server, "killed/x")
    assert f"{CELLS} cells: {CELLS - len(kept)} drawn, {len(kept)} were there already" in report
    whole, at_once = swept(server, "whole/x")
    assert f"{CELLS} cells: {CELLS} drawn, 0 were there already" in whole
    assert grid == at_once
