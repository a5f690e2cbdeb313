"""What is known of every LoRA file without opening it again: learned in the background from headers and sidecars, and kept.

Kept in the user directory by (path, size, modification time) of the file, and safe to delete. Tensors are never read here, files never
hashed, and nothing is fetched.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ...lora_math import family
from ...lora_math.errors import StrataError
from ...lora_math.experts import expert_of_header
from ...lora_math.reading import files, state_dict
from ...lora_math.reading.recommended import recommended
from ...lora_math.reading.trigger_words import trigger_words
from ...lora_math.reading.xlabs import convert
from ..comfy import library, lora_names, user_files
from .background import Background

FILE = "lora_index.json"
VERSION = 3
MAX_FILES = 200_000
# Seconds of learning between two writes.
SAVE_EVERY = 20.0
# Seconds between two looks at files whose list has stayed the same.
LOOK_EVERY = 20.0
# Seconds after each file, which belong to whatever else the server does.
PAUSE = 0.002
MAX_WORDS, MAX_TITLE = 8, 120
NO_LORA = "It holds no LoRA that is known here."
_HASH = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Known:
    """Of one file. strength, low, high: as recommended; problem: why it is no LoRA that can be used, else empty. hash: SHA-256 of its
    data as its header says, which nobody has checked, else empty; data: bytes of those; expert: as ``experts.expert_of_header`` says."""

    size: int
    # When the file was changed, in ns.
    modified: int
    family: str | None = None
    title: str = ""
    words: tuple[str, ...] = ()
    strength: float | None = None
    low: float | None = None
    high: float | None = None
    problem: str = ""
    hash: str = ""
    data: int = 0
    expert: str | None = None

    @property
    def stamp(self) -> tuple[int, int]:
        return self.size, self.modified


class LoraIndex:
    """Safe from any thread. ``learn`` starts at most one thread of its own, which ends when everything is known."""

    def __init__(self):
        self._lock = threading.Lock()
        # By full path.
        self._known: dict[str, Known] | None = None
        self._work = Background("lora-index")
        self._waiting = self._revision = 0
        # Name of the list -> full path.
        self._paths: dict[str, str] = {}
        # When it was looked last, and at which list.
        self._looked = (0.0, 0)

    def of(self, path: str) -> Known | None:
        """What is known of the file at a full path, None before it was learned. It may have changed since."""
        with self._lock:
            return self._loaded().get(path)

    def now(self, path: str) -> Known:
        """What is known of the file as it is now: looked at here where the background has not been."""
        known = self.of(path)
        if known is None or known.stamp != _stamp(path):
            known = look_at(path)
            with self._lock:
                self._loaded()[path] = known
                self._revision += 1
        return known

    def all(self) -> Mapping[str, Known]:
        """Everything that is known now, by full path."""
        with self._lock:
            return dict(self._loaded())

    def by_name(self) -> dict[str, tuple[str, Known]]:
        """(full path, what is known now) of each name of the list."""
        with self._lock:
            known = self._loaded()
            return {name: (path, known[path]) for name, path in self._paths.items() if path in known}

    @property
    def waiting(self) -> int:
        """How many files are still to be learned."""
        with self._lock:
            return self._waiting

    @property
    def revision(self) -> int:
        """Another number whenever something else is known; while files are being learned, at every hundredth only."""
        with self._lock:
            return self._revision // 100 if self._waiting else -self._revision

    def learn(self) -> None:
        """Looks through the folders in the background, unless that is under way or was done just now."""
        names = lora_names.lora_names()[:MAX_FILES]
        with self._lock:
            now, this = time.monotonic(), hash(tuple(names))
            if self._work.begun:
                at, of = self._looked
                if self._work.running or (of == this and now - at < LOOK_EVERY):
                    return
            self._looked = now, this
            # The first look has something to tell, whatever it is.
            self._waiting = 0 if self._paths else 1
            self._work.start(self._run, names)

    def wait(self, timeout: float) -> bool:
        """Until the learning under way has ended, for tests and benchmarks; False when it has not by then."""
        return self._work.wait(timeout)

    def _run(self, names: list[str]) -> None:
        found_at = places(names)
        with self._lock:
            self._paths = found_at
            self._revision += 1
        paths = list(found_at.values())
        todo = [path for path in paths if self._is_stale(path)]
        gone = self.all().keys() - set(paths)
        with self._lock:
            self._waiting = len(todo)
            for path in gone:
                del self._loaded()[path]
                self._revision += 1
        saved = time.monotonic()
        for path in todo:
            found = look_at(path)
            with self._lock:
                self._loaded()[path] = found
                self._waiting -= 1
                self._revision += 1
            if time.monotonic() - saved > SAVE_EVERY:
                self._save()
                saved = time.monotonic()
            time.sleep(PAUSE)
        if todo or gone:
            self._save()

    def _is_stale(self, path: str) -> bool:
        known = self.of(path)
        return known is None or known.stamp != _stamp(path)

    def _loaded(self) -> dict[str, Known]:
        if self._known is None:
            self._known = _read(user_files.read_json(FILE))
        return self._known

    def _save(self) -> None:
        data = {path: list(vars(known).values()) for path, known in self.all().items()}
        # What is lost is learned again next time.
        with contextlib.suppress(OSError):
            user_files.write_json(FILE, {"version": VERSION, "files": data}, compact=True)


def places(names: Iterable[str]) -> dict[str, str]:
    """The full path of each name of the list that a page may be told of."""
    return {name: path for name in names if (path := library.shown_path(name)) is not None}


def _read(data) -> dict[str, Known]:
    """A kept index; what does not look like one is nothing."""
    if not isinstance(data, dict) or data.get("version") != VERSION or not isinstance(data.get("files"), dict):
        return {}
    found = {}
    for path, values in data["files"].items():
        if isinstance(values, list) and len(values) == len(Known.__dataclass_fields__):
            size, modified, name, title, words, *strengths, problem, digest, held, expert = values
            if all(isinstance(n, int) for n in (size, modified, held)) and isinstance(words, list):
                texts = tuple(str(word) for word in words)
                numbers = [n if isinstance(n, (int, float)) else None for n in strengths]
                of_data = str(digest), held, expert if expert in ("high", "low") else None
                found[path] = Known(
                    size, modified, name and str(name), str(title), texts, *numbers, str(problem), *of_data
                )
    return found


def look_at(path: str) -> Known:
    """What header and sidecars tell of a file."""
    size, modified = _stamp(path)
    try:
        header = files.read_header(path) if path.lower().endswith(".safetensors") else files.Header({}, {})
    except StrataError as problem:
        return Known(size, modified, problem=str(problem))
    metadata = header.metadata
    title = metadata.get("modelspec.title") or metadata.get("ss_output_name") or ""
    best = recommended(path, metadata)
    found, problem = _family_of(header)
    return Known(
        size,
        modified,
        found,
        title[:MAX_TITLE],
        tuple(trigger_words(path, metadata)[:MAX_WORDS]),
        best.strength,
        best.low,
        best.high,
        problem,
        _told_hash(metadata),
        max((place.stop for place in header.tensors.values()), default=0),
        expert_of_header(metadata),
    )


def family_of(header: files.Header) -> str | None:
    """The family by names, shapes and metadata; None where they do not settle it."""
    return _family_of(header)[0]


def _family_of(header: files.Header) -> tuple[str | None, str]:
    """The family, and why the file is no LoRA."""
    # One number stands for each tensor: nothing of the file's size is held, and reading the names takes any tensor for what it is.
    try:
        tensors = {key: torch.ones((), dtype=place.dtype).expand(place.shape) for key, place in header.tensors.items()}
        entries = state_dict.parse(convert(tensors), header.metadata, None).entries
        return family.detect(entries, header.metadata), "" if entries or not tensors else NO_LORA
    except (StrataError, RuntimeError, ValueError, LookupError, TypeError):
        # The loader says what is wrong with it.
        return None, ""


def _told_hash(metadata: Mapping[str, str]) -> str:
    """Of the data, as kohya's and the modelspec's readers know it; "" where the header has none that can be one."""
    told = metadata.get("sshs_model_hash") or metadata.get("modelspec.hash_sha256", "").removeprefix("0x")
    return told.lower() if _HASH.fullmatch(told) else ""


def _stamp(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def words_of(name: str, known: Known | None) -> str:
    """What a search looks through."""
    parts: Iterable[str] = (name,) if known is None else (name, known.title, known.family or "", *known.words)
    return "\n".join(parts).lower()


INDEX = LoraIndex()
