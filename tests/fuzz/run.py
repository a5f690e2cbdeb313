"""The long run: thousands of cases in a process of their own, so that a crash or a hang is one more finding. See ``dev.py fuzz --help``."""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "out" / "fuzz"
OUTCOMES = ("refused", "misfit", "applied", "applied in part")
HANGS = 180.0  # seconds without a word from the worker; it has ComfyUI to import, perhaps on a busy machine


def main() -> int:
    about = "Thousands of broken LoRA files against the whole way that a file goes."
    parser = argparse.ArgumentParser(prog="dev.py fuzz", description=about)
    parser.add_argument("--cases", type=int, default=10_000, help="default: 10000")
    parser.add_argument("--seed", type=int, help="default: a new one; the same seed makes the same files")
    parser.add_argument("--only", type=int, metavar="N", help="case N of the seed alone")
    parser.add_argument("--worker", type=int, metavar="N", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        return work(options.seed, options.worker, options.cases)
    seed = int.from_bytes(os.urandom(3), "big") if options.seed is None else options.seed
    first, last = (0, options.cases) if options.only is None else (options.only, options.only + 1)
    print(f"{last - first} cases, seed {seed}", flush=True)
    start, outcomes = time.perf_counter(), Counter()
    while first < last:
        for number, kind, outcome in watched(seed, first, last):
            outcomes[outcome if outcome in OUTCOMES else "FAILED"] += 1
            if outcome not in OUTCOMES:
                print(f"case {number} ({kind}): {outcome}", flush=True)
            if number % 500 == 499:
                print(f"  {number + 1} cases, {time.perf_counter() - start:.0f} s: {dict(outcomes)}", flush=True)
            first = number + 1
    print(f"seed {seed}, {time.perf_counter() - start:.0f} s: {dict(outcomes)}")
    if outcomes["FAILED"]:
        print(f"The failing files are in {OUT}, named by seed and case.")
    return min(outcomes["FAILED"], 1)


def watched(seed: int, first: int, last: int) -> Iterator[tuple[int, str, str]]:
    """(number, kind, outcome) of the cases from ``first`` on, until a worker has done them all, died, or hung."""
    command = [sys.executable, __file__, f"--seed={seed}", f"--worker={first}", f"--cases={last}"]
    errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  lives as long as this generator
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in worker.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    number = first
    try:
        while number < last:
            try:
                line = lines.get(timeout=HANGS)
            except queue.Empty:
                yield number, "?", f"no answer in {HANGS:.0f} s"
                return
            if line is None:
                code = worker.wait()
                errors.seek(0)
                yield number, "?", f"the process died ({code}) {errors.read()[-500:]}"
                return
            if line.startswith("{"):
                said = json.loads(line)
                yield number, said["kind"], said["outcome"]
                number += 1
    finally:
        worker.kill()
        worker.wait()
        errors.close()


def work(seed: int, start: int, stop: int) -> int:
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    import conftest  # noqa: F401  makes the pack importable as ``strata``
    import folder_paths
    import fuzz_models
    import torch
    from cases import Source
    from laws import Bench

    torch.set_num_threads(1)
    models = fuzz_models.models()
    source, bench = Source(models), Bench(models)
    for number in range(start, stop):
        case = source.case(f"{seed} {number}")
        with tempfile.TemporaryDirectory() as folder:
            folder_paths.folder_names_and_paths["loras"] = ([folder], folder_paths.supported_pt_extensions)
            os.chdir(folder)
            try:
                outcome = bench.run(case, Path(folder))
            except Exception as problem:
                outcome = f"{type(problem).__name__}: {problem}"
                keep(seed, number, case, traceback.format_exc())
        print(json.dumps({"kind": case.kind, "outcome": outcome}), flush=True)
    return 0


def keep(seed: int, number: int, case, text: str) -> None:
    folder = OUT / f"{seed}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    how = f"{case.kind} on {case.family}, strengths {case.strengths}, {case.apply}{', twice' if case.twice else ''}"
    (folder / "error.log").write_text(f"{how}\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
