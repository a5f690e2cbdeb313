"""Where this pack keeps what a user made: a folder of its own in ComfyUI's user directory."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import folder_paths

# The most bytes; an index of a hundred thousand files stays below.
MAX_BYTES = 64 << 20
# It is held by whoever reads a file of a user's, changes it and writes it back.
CHANGING = threading.RLock()
T = TypeVar("T")


def user_file(name: str) -> str:
    """Full path of a file of this pack in the user directory; neither the file nor its folder need exist."""
    return os.path.join(folder_paths.get_user_directory(), "default", "strata", name)


def read_json(name: str):
    """What a file of ours holds; None where there is none, or one that cannot be read."""
    try:
        return _read(user_file(name))
    except (OSError, ValueError, RecursionError):
        return None


def write_json(name: str, value, compact: bool = False) -> None:
    """Beside the file, then over it in one step: a crash leaves the old one. Raises OSError, also for more than is ever read again.

    compact: on one line, for what nobody reads: Python writes that many times as fast.
    """
    path = user_file(name)
    indent = None if compact else 1
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        packed = text.encode()
    # Half a character, as in a file name of another encoding: JSON has a way to write it.
    except UnicodeEncodeError:
        packed = json.dumps(value, indent=indent).encode()
    if len(packed) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it would become larger than {MAX_BYTES >> 20} MB")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=f".{name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def change_json(name: str, change: Callable[[object], T]) -> T:
    """Reads, changes in place and writes a JSON object, with nobody in between; gives what ``change`` gives. Raises OSError.

    A file that is there and holds no such object is kept as ``.broken`` beside the new one, the next one as ``.broken2``.
    """
    with CHANGING:
        path = user_file(name)
        try:
            data = _read(path)
        except (ValueError, RecursionError):
            data = None
        whole = data if isinstance(data, dict) else {}
        result = change(whole)
        if not isinstance(data, dict) and os.path.exists(path):
            os.replace(path, _free(f"{path}.broken"))
        write_json(name, whole)
        return result


def _read(path: str):
    """None where there is no file. Raises ValueError and RecursionError for one that is not JSON, OSError for one that cannot be opened."""
    try:
        with open(path, "rb") as file:
            packed = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(packed) > MAX_BYTES:
        raise ValueError("longer than anything that was written here")
    return json.loads(packed)


def _free(path: str) -> str:
    return next(taken for n in count(1) if not os.path.lexists(taken := path if n == 1 else f"{path}{n}"))
