#!/usr/bin/env python3
"""Measures this pack beside ComfyUI's own loaders on a GPU, in eight minutes and with no network.

    python3 benchmarks/gpu.py --comfyui FOLDER [--out FOLDER]

FOLDER is a ComfyUI. Nothing is installed or fetched, and no model file is read: the weights are random. Each case runs in a process of its
own, ends when its time is over, and leaves what it has measured by then. Writes gpu.json and gpu.md. ``--small --device cpu`` goes the same
ways in a minute with small models.

For a machine that reaches nothing: ``--pack FOLDER`` copies what is needed of this pack and of ComfyUI, some 10 MB, and ``--needs`` says
there which Python packages are missing. What a machine for PyTorch tends to lack are comfy-kitchen (45 MB), comfy-aimdo, torchsde and
trampoline, as wheels: ``pip download --no-deps`` here, ``pip install --no-index --no-deps`` there.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE.parent]
MINUTES = 8.0
# Seconds that are kept for a case to end in, and for the tables.
END = 15.0
# Model, how it is stored, how it is loaded, seconds at most. The most telling first: what there is no time for is left out.
CASES = (
    ("SDXL", "bf16", "classic", 75),
    ("FLUX", "bf16", "classic", 120),
    ("FLUX", "fp8", "classic", 75),
    ("FLUX", "nvfp4", "classic", 75),
    ("FLUX", "bf16", "little", 75),
    ("SDXL", "fp8", "classic", 45),
    ("SDXL", "bf16", "dynamic", 45),
    ("FLUX", "bf16", "dynamic", 75),
    ("SDXL", "nvfp4", "classic", 45),
    ("SDXL", "bf16", "little", 45),
)
# What ComfyUI imports beside PyTorch.
NEEDS = (
    *(
        "numpy",
        "safetensors",
        "transformers",
        "einops",
        "psutil",
        "PIL",
        "yaml",
        "scipy",
        "tqdm",
        "aiohttp",
        "torchaudio",
    ),
    *("torchsde", "trampoline", "comfy_kitchen", "comfy_aimdo"),
)
# Of this pack.
PACKED = ("lora_math", "nodes", "benchmarks", "devtools")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder of a ComfyUI")
    parser.add_argument("--out", type=Path, default=Path("."), help="where gpu.json and gpu.md go")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default: {MINUTES:g}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small models, to see that everything runs")
    parser.add_argument("--only", nargs="*", default=[], help="cases by words, like FLUX or fp8 or little")
    parser.add_argument("--needs", action="store_true", help="only says which packages are missing")
    parser.add_argument(
        "--pack", type=Path, metavar="FOLDER", help="copies what another machine needs to FOLDER, and measures nothing"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pack:
        _pack(options.comfyui, options.pack)
        return 0
    if options.case:
        return _child(options)
    if missing := _missing():
        print(f"Missing here: {', '.join(missing)}")
    if options.needs or missing:
        return 1 if missing else 0
    until = time.time() + 60 * options.minutes
    report = {"machine": _machine(options.device), "seconds": 0.0, "cases": []}
    began = time.time()
    for case in CASES:
        if all(word in case for word in options.only):
            report["cases"].append(_run(case, options, until))
            report["seconds"] = round(time.time() - began, 1)
            # After each: whatever ends this early leaves what there is.
            _write(options.out, report)
    print(f"{report['seconds']:.0f} s in all")
    return 0


def _pack(comfyui: Path, folder: Path) -> None:
    root = HERE.parents[1]
    ours = (path for name in PACKED for ending in ("py", "json") for path in (root / name).rglob(f"*.{ending}"))
    code = (
        path
        for path in comfyui.rglob("*.py")
        if path.relative_to(comfyui).parts[0] not in ("custom_nodes", "tests", "tests-unit")
    )
    # Configurations that are read as the modules that have them are imported.
    texts = (path for path in (comfyui / "comfy").rglob("*.json") if path.stat().st_size < 100_000)
    for name, start, paths in (("strata", root, ours), ("ComfyUI", comfyui, (*code, *texts))):
        for path in paths:
            to = folder / name / path.relative_to(start)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
    print(f"There: python3 {HERE.name} is in {folder.name}/strata/benchmarks; give it --comfyui {folder.name}/ComfyUI")


def _missing() -> list[str]:
    from importlib.util import find_spec

    return [name for name in NEEDS if find_spec(name) is None]


def _machine(device: str) -> dict:
    import torch

    found = {"torch": torch.__version__, "python": platform.python_version(), "system": platform.system()}
    if device == "cpu":
        return {"card": "none: on the CPU", **found}
    if not torch.cuda.is_available():
        sys.exit("No NVIDIA GPU is here. --device cpu --small tries the script itself.")
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name,
        "memory": properties.total_memory,
        "capability": [properties.major, properties.minor],
        **found,
    }


def _run(case: tuple, options: argparse.Namespace, until: float) -> dict:
    model, stored, loading, most = case
    found = {"model": model, "stored": stored, "loading": loading, "rows": [], "left_out": ""}
    left = until - END - time.time()
    if left < 30 and not options.small:
        return {**found, "left_out": "no time was left"}
    if loading != "classic" and options.device == "cpu":
        return {**found, "left_out": "needs a GPU"}
    told = {**found, "device": options.device, "small": options.small, "until": time.time() + min(left, most)}
    command = [sys.executable, str(HERE), "--comfyui", str(options.comfyui), "--case", json.dumps(told)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, errors = process.communicate(timeout=max(min(left, most) + END / 2, 5))
        if process.returncode:
            found["left_out"] = (
                errors.strip().splitlines()[-1] if errors.strip() else f"ended with {process.returncode}"
            )
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        found["left_out"] = "its time was over"
    for line in output.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            if "left_out" in row:
                found["left_out"] = row["left_out"]
            else:
                found["rows"].append(row)
    print(
        f"{model} {stored} {loading}: {len(found['rows'])} rows{', ' + found['left_out'] if found['left_out'] else ''}",
        flush=True,
    )
    return found


def _child(options: argparse.Namespace) -> int:
    import types

    root = HERE.parents[1]
    sys.path[:] = [str(options.comfyui), *(e for e in sys.path if Path(e or ".").resolve() not in (root, HERE.parent))]
    for name, path in (("strata", root), ("benchmarks", HERE.parent)):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    case = json.loads(options.case)
    sys.argv = sys.argv[:1]
    from benchmarks import gpu_setup

    gpu_setup.start(case)
    from benchmarks import gpu_cases

    for row in gpu_cases.rows(case):
        print(json.dumps(row), flush=True)
    return 0


def _write(folder: Path, report: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (folder / "gpu.md").write_text(_markdown(report), encoding="utf-8")


def _markdown(report: dict) -> str:
    machine = report["machine"]
    memory = f", {machine['memory'] / 2**30:.0f} GiB" if "memory" in machine else ""
    lines = [
        "# On a GPU",
        "",
        "Made by `python3 benchmarks/gpu.py`. Random weights, seconds by the clock with the GPU waited for; a number is the median of its",
        "rounds. Memory is the most that a run holds beyond the model before it.",
        "",
        f"{machine['card']}{memory}; torch {machine['torch']}; Python {machine['python']}; {machine['system']}.",
    ]
    for case in report["cases"]:
        lines += ["", f"## {case['model']}, stored in {case['stored']}, {case['loading']} loading", ""]
        if case["left_out"]:
            lines += [f"Not all of it: {case['left_out']}.", ""]
        if case["rows"]:
            lines += ["| what | way | LoRAs | number |", "|---|---|---|---|"]
            lines += [
                f"| {r['what']} | {r['way']} | {r['loras']} | {_shown(r['value'], r['unit'])} |" for r in case["rows"]
            ]
    return "\n".join(lines) + "\n"


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit == "bytes":
        return f"{value / 2**20:.1f} MB"
    return f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
