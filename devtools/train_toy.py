"""``dev.py train_toy``: makes the trained toy anew, from the drawings of an npm package. It wants npm on the path.

Each stage goes on where it was stopped; what it has made so far lies in out/toy: logs, and sheets of samples to look at.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Steps of the two long trainings.
DECODER, BASE = 3000, 2400


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py train_toy", description=__doc__)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "toy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("stages", nargs="*", help="decoder, base, a LoRA's name, export (default: all, in this order)")
    options = parser.parse_args()
    # In place of this package's own folder, whose server.py would hide ComfyUI's.
    sys.path.insert(0, options.comfyui)
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    import torch

    torch.set_num_threads(options.threads)
    from .toy import base, export, loras, vae

    work = options.work
    stages = {"decoder": lambda: vae.train(work, DECODER), "base": lambda: base.train(work, BASE)}
    stages |= {name: lambda recipe=recipe: loras.train(work, recipe) for name, recipe in loras.RECIPES.items()}
    stages |= {"export": lambda: export.export(work)}
    work.mkdir(parents=True, exist_ok=True)
    for stage in options.stages or stages:
        print(f"\n{stage}", flush=True)
        stages[stage]()


if __name__ == "__main__":
    main()
