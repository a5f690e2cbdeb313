"""The models of the development tools, kept in the user's cache folder.

Two sets: the untrained SD1.5 of ``models``, which the tests use because it loads fast, and the trained toy, whose weights are in
this checkout and whose text encoder is drawn from its seed once.
"""

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
TOY = Path(__file__).with_name("toy")
TOY_WEIGHTS = TOY / "models"
TOY_CLIP = "text_encoders/strata_toy_clip.safetensors"

Say = Callable[[str], None]


def demo_models(comfyui: Path, say: Say, python: str = sys.executable) -> Path:
    """A folder with ``checkpoints/`` and ``loras/``; made now if this machine has not got it.

    Raises:
        subprocess.CalledProcessError: they could not be made; the reason is on stderr.
    """

    def make(folder: Path) -> None:
        say("Making a small SD1.5 checkpoint and two LoRAs (once) ...")
        subprocess.run([python, MAKER, "--comfyui", comfyui, "--into", folder], check=True)

    return _kept("models", [MAKER], make, say)


def toy_models(say: Say) -> Path:
    """A folder with the toy as ComfyUI's ``models`` folder has it: ``diffusion_models/``, ``text_encoders/``, ``vae/``, ``loras/``."""

    def make(folder: Path) -> None:
        from .toy import clip

        say("Making the toy's text encoder from its seed (once, 247 MB) ...")
        shutil.copytree(TOY_WEIGHTS, folder, dirs_exist_ok=True)
        (folder / TOY_CLIP).parent.mkdir(exist_ok=True)
        clip.write(folder / TOY_CLIP)

    return _kept("toy", [TOY / "clip.py", *sorted(TOY_WEIGHTS.glob("*/*.safetensors"))], make, say)


def _kept(name: str, sources: list[Path], make: Callable[[Path], None], say: Say) -> Path:
    """The folder that ``make`` fills, once for each content of ``sources``."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    key = digest.hexdigest()[:16]
    folder = cache.cache_root() / f"{name}-{key}"
    if not cache.is_ready(folder, key):
        with cache.lock(folder.with_suffix(".lock"), lambda: say("Another run is making the models; waiting.")):
            if not cache.is_ready(folder, key):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                make(folder)
                cache.mark_ready(folder, key)
    return folder


def link_models(models: Path, base: Path) -> None:
    """Give the server with this base folder these models, without a second copy where that is possible."""
    for source in sorted(models.glob("*/*.safetensors")):
        target = base / "models" / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
