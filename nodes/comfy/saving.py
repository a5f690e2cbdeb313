"""Where ComfyUI keeps LoRAs that a person saves, what it calls them, and how a long piece of work is shown and stopped."""

from __future__ import annotations

import os
import reprlib
import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import folder_paths
import torch
from torch import Tensor

from ...lora_math.errors import StrataError
from .internals import find

if TYPE_CHECKING:
    from ...lora_math.writing.file import Saved

OUTPUT, MODELS = "output/loras", "models/loras"
FOLDERS = (OUTPUT, MODELS)
TRIES = 100


def folder_of(choice: str) -> str:
    """The folder that a choice of FOLDERS means. Raises StrataError where there is none."""
    own = os.path.join(folder_paths.get_output_directory(), "loras")
    if choice == OUTPUT:
        return own
    others = [
        path for path in folder_paths.get_folder_paths("loras") if os.path.realpath(path) != os.path.realpath(own)
    ]
    if choice != MODELS or not others:
        raise StrataError(f"There is no folder {choice}. Choose {OUTPUT}.")
    return others[0]


def save_numbered(choice: str, prefix: str, write: Callable[[str, str], Saved]) -> tuple[Saved, str]:
    """What ``write`` (path, name without ending) saves under the next free number, and its name in ComfyUI's list of LoRAs.

    prefix: a name, with folders before it if a person wants; dates in it as ``written_out`` has them.
    """
    # With what saves, not with ComfyUI's start.
    from ...lora_math.writing.file import Exists

    root = folder_of(choice)
    whole = _written_out(prefix)
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(whole, root)
    except OSError as problem:
        raise StrataError(
            f"The LoRA was not saved: {root} cannot be written to ({problem.strerror}). Choose another folder."
        ) from problem
    # ComfyUI's own guard raises nothing more exact.
    except Exception as problem:
        raise StrataError(
            f"filename_prefix {reprlib.repr(prefix)} leads out of the folder {choice}. Choose a name inside it."
        ) from problem
    for number in range(counter, counter + TRIES):
        stem = f"{name}_{number:05}_"
        try:
            saved = write(os.path.join(folder, f"{stem}.safetensors"), stem)
        except Exists:
            continue
        return saved, os.path.relpath(saved.path, root)
    raise StrataError(f"{TRIES} files of the name {name} are there already. Choose another filename_prefix.")


def _written_out(prefix: str) -> str:
    from ...lora_math.writing.file_name import written_out

    shown = reprlib.repr(prefix)
    if isinstance(prefix, str) and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in prefix.strip()):
        raise StrataError(
            f"filename_prefix is {shown}, with characters that no file name should hold. Choose another name."
        )
    whole = written_out(prefix.strip(), datetime.now()) if isinstance(prefix, str) else ""
    if not os.path.basename(os.path.normpath(whole)).strip(". "):
        raise StrataError(f"filename_prefix is {shown}: it must be a name for the file.")
    return whole


def weight_of(owner, key: str) -> Tensor:
    """A weight of a MODEL or CLIP as its patches leave it, as a new float32 tensor on the CPU."""
    from .live_layers import current

    return current(getattr(owner, "patcher", owner), key, torch.device("cpu"))


class Progress:
    """A node's progress bar over ``total`` steps. Each step stops where the person has pressed stop."""

    def __init__(self, total: int):
        bar = find("comfy.utils", "ProgressBar", "Saving and extracting LoRAs show no progress.")
        self._bar = None if bar is None else bar(max(1, total))
        self._stop = find(
            "comfy.model_management",
            "throw_exception_if_processing_interrupted",
            "Saving and extracting LoRAs cannot be interrupted.",
        )

    def tick(self) -> None:
        """Looks whether to stop."""
        if self._stop is not None:
            self._stop()

    def step(self) -> None:
        self.tick()
        if self._bar is not None:
            self._bar.update(1)
