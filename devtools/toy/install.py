"""``dev.py toy``: copies the toy into a ComfyUI's ``models`` folder, for who works with a ComfyUI of their own."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ..model_cache import toy_models


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py toy")
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("models", type=Path, nargs="?", help="the models folder (default: that of the ComfyUI in use)")
    options = parser.parse_args()
    into = options.models or options.comfyui / "models"
    for source in sorted(toy_models(print).glob("*/*.safetensors")):
        target = into / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        print(target)


if __name__ == "__main__":
    main()
