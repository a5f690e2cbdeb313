"""The demo's checkpoint and LoRAs: made once per version of ``models.py``, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import cache

MAKER = Path(__file__).with_name("models.py")


def demo_models(comfyui: Path, say: Callable[[str], None], python: str = sys.executable) -> Path:
    """A folder with ``checkpoints/`` and ``loras/``; made now if this machine has not got it.

    Raises:
        subprocess.CalledProcessError: they could not be made; the reason is on stderr.
    """
    key = hashlib.sha256(MAKER.read_bytes()).hexdigest()[:16]
    folder = cache.cache_root() / f"models-{key}"
    if not cache.is_ready(folder, key):
        with cache.lock(folder.with_suffix(".lock"), lambda: say("Another run is making the models; waiting.")):
            if not cache.is_ready(folder, key):
                say("Making a small SD1.5 checkpoint and two LoRAs (once) ...")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                subprocess.run([python, MAKER, "--comfyui", comfyui, "--into", folder], check=True)
                cache.mark_ready(folder, key)
    return folder


def link_models(models: Path, base: Path) -> None:
    """Give the server with this base folder the demo's models, without a second copy where that is possible."""
    for source in sorted(models.glob("*/*.safetensors")):
        target = base / "models" / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
