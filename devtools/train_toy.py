"""``dev.py train_toy``: makes the trained toy anew, from the drawings of an npm package. It wants npm on the path.

Each stage goes on where it was stopped; what it has made so far lies in out/toy: logs, and sheets of samples to look at.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Steps of the two long trainings.
DECODER, BASE = 2000, 5500


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py train_toy", description=__doc__)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "toy")
    parser.add_argument("--processes", type=int, default=2, help="with one thread each (default: 2)")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("stages", nargs="*", help="decoder, base, a LoRA's name, export (default: all, in this order)")
    arguments = sys.argv[1:]
    options = parser.parse_args()
    # In place of this package's own folder, whose server.py would hide ComfyUI's.
    sys.path.insert(0, options.comfyui)
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    import torch

    torch.set_num_threads(1)
    from .toy import base, export, loras, training, vae

    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    others = []
    if options.processes > 1:
        if not options.rank:
            (work / "meeting").unlink(missing_ok=True)
            command = [sys.executable, "-m", "devtools.train_toy", *arguments]
            others = [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(1, options.processes)]
        training.join(work, options.rank, options.processes)
    stages = {"decoder": lambda: vae.train(work, DECODER), "base": lambda: base.train(work, BASE)}
    stages |= {name: lambda recipe=recipe: loras.train(work, recipe) for name, recipe in loras.RECIPES.items()}
    stages |= {"export": lambda: export.export(work) if training.first() else None}
    for stage in options.stages or stages:
        if training.first():
            print(f"\n{stage}", flush=True)
        stages[stage]()
        training.wait()
    for other in others:
        other.wait()


if __name__ == "__main__":
    main()
