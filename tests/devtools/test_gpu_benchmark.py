"""The benchmark for a machine with a GPU, as it is carried there: from a copy, with no network, here on the CPU with small models."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from strata.devtools.server import ROOT

# A process that opens a socket to anywhere ends there: for systems that cannot take the network away from a process.
NO_SOCKETS = """
import socket
def refuse(*_, **__):
    raise SystemExit("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = refuse
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    script = ["benchmarks/gpu.py", "--comfyui", os.environ["COMFYUI_PATH"], "--pack", str(folder)]
    subprocess.run([sys.executable, *script], cwd=ROOT, check=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 20_000_000
    command = [
        sys.executable,
        "strata/benchmarks/gpu.py",
        "--comfyui",
        "ComfyUI",
        "--out",
        "out",
        "--device",
        "cpu",
        "--small",
    ]
    unshare = shutil.which("unshare")
    if unshare and subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode == 0:
        command = [unshare, "-rn", *command]
    (folder / "blocked").mkdir()
    (folder / "blocked" / "sitecustomize.py").write_text(NO_SOCKETS)
    env = {**os.environ, "PYTHONPATH": str(folder / "blocked"), "OMP_NUM_THREADS": "1"}
    env.pop("COMFYUI_PATH")
    done = subprocess.run([*command, "--only", "FLUX"], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "out" / "gpu.json").read_text()), (folder / "out" / "gpu.md").read_text()


def test_every_case_is_measured_or_says_why_not(report):
    found, told = report
    cases = {(case["stored"], case["loading"]): case for case in found["cases"]}
    assert set(cases) == {(kind, "classic") for kind in ("bf16", "fp8", "nvfp4")} | {
        ("bf16", "little"),
        ("bf16", "dynamic"),
    }
    for (stored, loading), case in cases.items():
        assert f"stored in {stored}, {loading} loading" in told
        if loading != "classic":
            assert case["left_out"] == "needs a GPU" and not case["rows"]
            continue
        assert not case["left_out"], case["left_out"]
        rows = {(row["what"], row["way"], row["loras"]): row["value"] for row in case["rows"]}
        for way in ("Strata live", "Strata patch", "ComfyUI"):
            for what in ("first step", "step", "memory of the process", "first step after a moved slider"):
                for count in (1, 10):
                    assert (what, f"{way}, rank 16", count) in rows
        assert ("step, rank 16", "Strata live, another strength at every step", 1) in rows
        assert ("node, rank 16", "Strata, moved slider", 1) in rows


def test_live_is_as_exact_as_the_reference_and_a_patch_as_exact_as_the_type(report):
    """On the CPU everything is computed in float32: what is left of an error is the rounding of what is stored."""
    error = {
        case["stored"]: {row["way"]: row["value"] for row in case["rows"] if row["what"] == "error of the LoRA's share"}
        for case in report[0]["cases"]
        if case["rows"]
    }
    assert error["bf16"]["Strata live"] < 1e-4 < error["bf16"]["Strata patch"] < 0.1
    assert error["fp8"]["Strata live"] < 1e-4 < 0.1 < error["fp8"]["Strata patch"] < 2
