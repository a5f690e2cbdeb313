"""What the LoRA files of this machine hold: a hash of each one's data and a fingerprint of what it does, and which of them are the same.

Every byte of every file is read for that, so it is done when somebody asks for it: in the background, a piece at a time, not while a
prompt runs. It can be stopped and goes on later; what is known is kept in the user directory by (path, size, modification time), and is
safe to delete.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from ...lora_math.errors import StrataError
from ...lora_math.inspecting import library as contents
from ..comfy import user_files
from ..comfy.web_server import is_busy
from .background import Background

FILE = "lora_contents.json"
VERSION = 1
# Seconds between two writes, between two looks at whether a prompt still runs, and after a piece of work, for whoever else wants to run.
SAVE_EVERY, WAIT, PAUSE = 20.0, 0.5, 0.0005
# A fingerprint is kept as whole numbers of 16 bits.
_FULL = 32767


class Content(NamedTuple):
    """Of one file. data: SHA-256 of what lies behind its header; fingerprint: of its change, packed, "" where none is known; problem: why
    it is no LoRA that can be used, else ""."""

    size: int
    # When the file was changed, in ns.
    modified: int
    data: str = ""
    fingerprint: str = ""
    problem: str = ""

    @property
    def stamp(self) -> tuple[int, int]:
        return self.size, self.modified


class Likeness(NamedTuple):
    """Of two files. scale: how much stronger the second one is, None where it is not known."""

    cosine: float
    scale: float | None


class _Stopped(Exception):
    """Somebody has asked for it."""


class Contents:
    """Safe from any thread. ``start`` starts at most one thread of its own."""

    def __init__(self):
        self._lock = threading.Lock()
        # By full path; by two of them, in order. None before they were read.
        self._known: dict[str, Content] | None = None
        self._pairs: dict[tuple[str, str], Likeness] = {}
        self._work = Background("lora-contents")
        self._stop = threading.Event()
        # What was asked for since it was stopped, while it has not ended yet.
        self._next: Callable[[], Iterable[str]] | None = None
        self._done = self._total = self._revision = 0
        self._stage, self._failed = "", ""

    def start(self, paths: Callable[[], Iterable[str]]) -> None:
        """Reads and compares these files, unless that is under way. ``paths`` is called in the background."""
        with self._lock:
            if self._work.running:
                if self._stop.is_set():
                    self._next = paths
                return
            self._begin()
            self._work.start(self._run, paths)

    def stop(self) -> None:
        """What is known by then is kept."""
        with self._lock:
            self._next = None
            self._stop.set()

    def wait(self, timeout: float) -> bool:
        """Until what is under way has ended, for tests and benchmarks; False when it has not by then."""
        return self._work.wait(timeout)

    @property
    def revision(self) -> int:
        """Another number when something else is known; while files are read, at every write only."""
        with self._lock:
            return self._revision

    def state(self) -> dict:
        """For the page. stage: "read" or "compare" while it runs, else ""; done of total: files, then pairs."""
        with self._lock:
            running = self._work.running
            return {
                "stage": self._stage if running else "",
                "waiting": running and is_busy(),
                "done": self._done,
                "total": self._total,
                "problem": self._failed,
                "known": len(self._loaded()),
            }

    def all(self) -> tuple[dict[str, Content], dict[tuple[str, str], Likeness]]:
        """What is known now: files by full path, and pairs of those that were compared. Files may have changed since."""
        with self._lock:
            return dict(self._loaded()), dict(self._pairs)

    def _begin(self) -> None:
        self._stop.clear()
        self._next = None
        self._done, self._total, self._stage, self._failed = 0, 0, "read", ""

    def _run(self, wanted: Callable[[], Iterable[str]]) -> None:
        following: Callable[[], Iterable[str]] | None = wanted
        while following is not None:
            self._pass(following)
            with self._lock:
                following = self._next
                if following is None:
                    # Whoever asks from here on starts a thread.
                    self._work.forget()
                else:
                    self._begin()

    def _pass(self, wanted: Callable[[], Iterable[str]]) -> None:
        try:
            paths = list(wanted())
            self._read(paths)
            self._save()
            self._compare(paths)
        except _Stopped:
            pass
        # Whatever it is, the page says so; the editor must not wait for a thread that is gone.
        except Exception as problem:
            logging.exception("[Strata] Comparing the LoRA files has failed.")
            with self._lock:
                self._failed = f"{type(problem).__name__}: {problem}"
        self._save()

    def _read(self, paths: list[str]) -> None:
        with self._lock:
            known = self._loaded()
            gone = known.keys() - set(paths)
            todo = [path for path in paths if path not in known or known[path].stamp != contents.stamp(path)]
            others = gone.union(todo)
            self._pairs = {pair: found for pair, found in self._pairs.items() if others.isdisjoint(pair)}
            for path in gone:
                del known[path]
            self._total = len(todo)
        saved = time.monotonic()
        for path in todo:
            self._tick()
            kept = self._looked_at(path)
            with self._lock:
                if kept is None:
                    self._loaded().pop(path, None)
                else:
                    self._loaded()[path] = kept
                self._done += 1
            if time.monotonic() - saved > SAVE_EVERY:
                self._save()
                saved = time.monotonic()

    def _looked_at(self, path: str) -> Content | None:
        """None for a file that something unforeseen is wrong with: the others are read all the same, and it again by the next pass."""
        try:
            found = contents.look_at(path, self._tick)
            return Content(found.size, found.modified, found.data, pack(found.fingerprint), found.problem)
        except _Stopped:
            raise
        except Exception as problem:
            self._left_out(path, problem)
            return None

    def _left_out(self, path: str, problem: Exception) -> None:
        """Said to the page, which names the first one, and in the log."""
        logging.warning("[Strata] %s was left out of the comparison.", path, exc_info=problem)
        with self._lock:
            self._failed = self._failed or f"{os.path.basename(path)}: {type(problem).__name__}: {problem}"

    def _compare(self, paths: list[str]) -> None:
        """Of files with the same data one stands for all."""
        with self._lock:
            known = self._loaded()
            first_of = {known[path].data: path for path in reversed(paths) if path in known and known[path].fingerprint}
            chosen = sorted(first_of.values())
            prints = unpack([known[path].fingerprint for path in chosen])
        todo = [
            (chosen[other], chosen[at], near)
            for at, other, near in contents.alike(prints)
            if (chosen[other], chosen[at]) not in self._pairs
        ]
        with self._lock:
            self._stage, self._done, self._total = "compare", 0, len(todo)
        second, opened = "", []
        for first, path, near in todo:
            self._tick()
            try:
                if path != second:
                    second, opened = path, contents.entries_of(path)
                cosine, scale = contents.compared(contents.entries_of(first), opened, self._tick) or (near, math.nan)
            except (StrataError, OSError):
                # It was there a moment ago.
                continue
            except _Stopped:
                raise
            except Exception as problem:
                self._left_out(path, problem)
                continue
            with self._lock:
                self._pairs[first, path] = Likeness(cosine, None if math.isnan(scale) else scale)
                self._done += 1

    def _tick(self) -> None:
        """Between two pieces of work. Raises _Stopped."""
        while is_busy() and not self._stop.is_set():
            self._stop.wait(WAIT)
        if self._stop.is_set():
            raise _Stopped
        time.sleep(PAUSE)

    def _loaded(self) -> dict[str, Content]:
        if self._known is None:
            self._known, self._pairs = read(user_files.read_json(FILE))
        return self._known

    def _save(self) -> None:
        with self._lock:
            files = {path: list(known) for path, known in self._loaded().items()}
            pairs = [[*pair, *found] for pair, found in self._pairs.items()]
            self._revision += 1
        # What is lost is read again next time.
        with contextlib.suppress(OSError):
            user_files.write_json(FILE, {"version": _version(), "files": files, "pairs": pairs}, compact=True)


def _version() -> list:
    """Fingerprints are drawn by PyTorch."""
    return [VERSION, contents.VERSION, torch.__version__]


def pack(fingerprint: Iterable[float]) -> str:
    return base64.b64encode(array("h", (round(value * _FULL) for value in fingerprint)).tobytes()).decode()


def unpack(packed: list[str]) -> torch.Tensor:
    """[n, PROBES], each of length 1."""
    if not packed:
        return torch.zeros(0, contents.PROBES)
    whole = bytearray(b"".join(base64.b64decode(one) for one in packed))
    found = torch.frombuffer(whole, dtype=torch.int16).reshape(len(packed), contents.PROBES).float()
    return found / torch.linalg.vector_norm(found, dim=1, keepdim=True)


def read(data) -> tuple[dict[str, Content], dict[tuple[str, str], Likeness]]:
    """What was kept; what does not look like it is nothing."""
    if not isinstance(data, dict) or data.get("version") != _version():
        return {}, {}
    rows, pairs = data.get("files"), data.get("pairs")
    files = {path: Content(*row) for path, row in rows.items() if _is_content(row)} if isinstance(rows, dict) else {}
    found = {}
    for row in pairs if isinstance(pairs, list) else ():
        if isinstance(row, list) and len(row) == 4 and row[0] in files and row[1] in files and _are_numbers(row[2:]):
            found[row[0], row[1]] = Likeness(row[2], row[3])
    return files, found


def _is_content(row) -> bool:
    if not isinstance(row, list) or len(row) != len(Content._fields):
        return False
    if not all(isinstance(number, int) for number in row[:2]) or not all(isinstance(text, str) for text in row[2:]):
        return False
    try:
        return len(base64.b64decode(row[3], validate=True)) in (0, 2 * contents.PROBES) and bool(row[2] or row[4])
    except ValueError:
        return False


def _are_numbers(pair: list) -> bool:
    cosine, scale = pair
    return isinstance(cosine, float) and (scale is None or isinstance(scale, float))


CONTENTS = Contents()
