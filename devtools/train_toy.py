"""Makes the trained toy anew, from the drawings of an npm package. Runs under ComfyUI's Python.

python -m devtools.train_toy --comfyui PATH [--work FOLDER] [STAGE ...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="train_toy")
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "toy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int)
    parser.add_argument("stages", nargs="*")
    options = parser.parse_args()
    sys.path.insert(0, options.comfyui)
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    import torch

    torch.set_num_threads(options.threads)
    for stage in options.stages:
        if stage == "vae":
            from .toy import vae

            vae.train(options.work, options.steps or 2500)
        elif stage == "base":
            from .toy import base

            base.train(options.work, options.steps or 4000)
        else:
            from .toy import loras

            loras.train(options.work, loras.RECIPES[stage])


if __name__ == "__main__":
    main()
