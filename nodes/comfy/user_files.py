"""Where this pack keeps what a user made: a folder of its own in ComfyUI's user directory."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

import folder_paths

MAX_BYTES = 64 << 20  # an index of a hundred thousand files stays below
CHANGING = threading.RLock()  # held by whoever reads a file of a user's, changes it and writes it back
T = TypeVar("T")


def user_file(name: str) -> str:
    """Full path of a file of this pack in the user directory; neither the file nor its folder need exist."""
    return os.path.join(folder_paths.get_user_directory(), "default", "strata", name)


def read_json(name: str):
    """What a file of ours holds; None where there is none, or one that cannot be read."""
    path = user_file(name)
    try:
        if os.path.getsize(path) > MAX_BYTES:
            return None
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError):
        return None


def write_json(name: str, value) -> None:
    """Beside the file, then over it in one step: a crash leaves the old one. Raises OSError."""
    path = user_file(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=f".{name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def change_json(name: str, change: Callable[[object], T]) -> T:
    """Reads, changes in place and writes a JSON object, with nobody in between; gives what ``change`` gives. Raises OSError.

    A file that is there and cannot be read is kept as ``.broken`` beside the new one.
    """
    with CHANGING:
        data, path = read_json(name), user_file(name)
        if not isinstance(data, dict):
            data = {}
            if os.path.exists(path):
                os.replace(path, f"{path}.broken")
        result = change(data)
        write_json(name, data)
        return result
