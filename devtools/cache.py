"""The folder where the development tools keep what is slow to make, and how several runs share it safely."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

APP = "comfyui-strata"
STAMP = "ready.json"
_POLL_SECONDS = 0.5


def cache_root(platform: str = sys.platform, env: Mapping[str, str] | None = None, home: Path | None = None) -> Path:
    """The user's cache folder for this project, by each platform's own convention; it may not exist yet."""
    env = os.environ if env is None else env
    home = Path.home() if home is None else home
    if platform == "win32":
        local = env.get("LOCALAPPDATA")
        return (Path(local) if local else home / "AppData" / "Local") / APP
    if platform == "darwin":
        return home / "Library" / "Caches" / APP
    xdg = env.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and must be ignored.
    return (Path(xdg) if os.path.isabs(xdg) else home / ".cache") / APP


def is_ready(folder: Path, key: str) -> bool:
    """Whether ``folder`` was completely made for ``key``. The stamp is written last, so half a job never counts."""
    try:
        return json.loads((folder / STAMP).read_text(encoding="utf-8")).get("key") == key
    except (OSError, ValueError, AttributeError):
        return False


def mark_ready(folder: Path, key: str) -> None:
    """Write the stamp that :func:`is_ready` looks for. It appears whole or not at all."""
    partial = folder / f"{STAMP}.{os.getpid()}"
    partial.write_text(json.dumps({"key": key}), encoding="utf-8")
    os.replace(partial, folder / STAMP)


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold ``path`` so that nobody else does, waiting while another process has it.

    The operating system owns the lock, and drops it when its holder dies: there is no stale lock to guess about.
    ``on_wait`` is called once if there is something to wait for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as handle:
        waiting = False
        while not _try_lock(handle.fileno()):
            if not waiting and on_wait is not None:
                on_wait()
            waiting = True
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            _unlock(handle.fileno())


if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)
