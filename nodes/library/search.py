"""Finding LoRA files: by words, by folder, by what fits a model, in an order; a page of the answer at a time."""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest

from ...lora_math.families import related
from ...lora_math.tags import LoraTag, format_tag
from ..comfy import library, lora_names, user_files
from ..desk.profile import preview
from .index import INDEX, Known, words_of

FILE = "library.json"
MAX_RECENT, MAX_FAVOURITES = 60, 5000
# The most rows of one answer.
PAGE = 200
SORTS = ("name", "date", "recent")
MAX_QUERY = 200
# Of how many names the letters are compared.
MAX_LIKELY = 200


@dataclass(frozen=True)
class Question:
    """words: each in a path, title, trigger word or family; folder: "" for all; fits: a family; sort: one of SORTS."""

    words: str = ""
    folder: str = ""
    fits: str | None = None
    sort: str = "name"
    favourites: bool = False
    start: int = 0
    count: int = 50


class Library:
    """The names of the list with what is known of them, made ready for searching. Kept until the list or the index changes."""

    def __init__(self):
        self._lock = threading.Lock()
        self._made_of: tuple | None = None
        # Each is a name, its words, and what is known.
        self._rows: list[tuple[str, str, Known | None]] = []
        self._folders: list[str] = []

    def rows(self) -> tuple[list[tuple[str, str, Known | None]], list[str]]:
        names = lora_names.lora_names()
        with self._lock:
            made_of = (id(INDEX), hash(tuple(names)), INDEX.revision)
            if made_of != self._made_of:
                known = INDEX.by_name()
                self._rows = [(name, words_of(name, known.get(name)), known.get(name)) for name in names]
                self._folders = sorted({_folder(name) for name in names} - {""})
                self._made_of = made_of
            return self._rows, self._folders


LIBRARY = Library()


def search(question: Question) -> dict:
    """The answer for the browser: how many there are, and in other folders than the one that is asked for, a page of them, the folders, and
    how many files are still to be learned."""
    INDEX.learn()
    rows, folders = LIBRARY.rows()
    marks = user_files.read_json(FILE)
    favourites, recent = _names(marks, "favourites"), _names(marks, "recent")
    words = question.words[:MAX_QUERY].lower().split()
    starred, inside = set(favourites), question.folder.replace("\\", "/").strip("/") + "/"
    everywhere = [
        row
        for row in rows
        if all(word in row[1] for word in words)
        and (not question.favourites or row[0] in starred)
        and _fits(row[2], question.fits)
    ]
    found = [row for row in everywhere if inside == "/" or row[0].replace("\\", "/").startswith(inside)]
    if question.sort == "date":
        found.sort(key=lambda row: -(row[2].modified if row[2] else 0))
    elif question.sort == "recent":
        at = {name: place for place, name in enumerate(recent)}
        found.sort(key=lambda row: at.get(row[0], len(recent)))
    page = found[question.start : question.start + min(question.count, PAGE)]
    return {
        "total": len(found),
        "elsewhere": len(everywhere) - len(found),
        "all": len(rows),
        "rows": [_shown(name, library.shown_path(name), known, name in starred) for name, _, known in page],
        "folders": folders,
        "learning": INDEX.waiting,
    }


def _shown(name: str, path: str | None, known: Known | None, favourite: bool) -> dict:
    answer = {
        "name": name,
        "tag": head(name),
        "favourite": favourite,
        "preview": None if path is None else preview(path, name),
    }
    if known is not None:
        answer |= {"family": known.family, "title": known.title, "words": list(known.words), "problem": known.problem}
        answer |= {"strength": known.strength, "low": known.low, "high": known.high}
    return answer


def head(name: str) -> str:
    """The beginning of the tag of a file: the browser puts strengths behind it, and knows nothing of escapes."""
    return format_tag(LoraTag(os.path.splitext(name)[0] if _is_only(name) else name, 1.0, 1.0)).removesuffix(":1>")


def _is_only(name: str) -> bool:
    """Whether a name can be told without its ending."""
    return name.lower().endswith(".safetensors")


def _fits(known: Known | None, family: str | None) -> bool:
    """Whether it may fit: what is not known may."""
    if family is None or known is None or known.family in (None, family):
        return True
    return related(known.family, family)


def mark(name: str, favourite: bool | None = None, used: bool = False) -> None:
    """Remembers a favourite, or that a file was chosen just now. Raises OSError."""

    def change(data: dict) -> None:
        if favourite is not None:
            others = [other for other in _names(data, "favourites") if other != name]
            data["favourites"] = [*others, name][-MAX_FAVOURITES:] if favourite else others
        if used:
            data["recent"] = [name, *(other for other in _names(data, "recent") if other != name)][:MAX_RECENT]

    user_files.change_json(FILE, change)


def _names(data, key: str) -> list[str]:
    found = data.get(key) if isinstance(data, dict) else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _folder(name: str) -> str:
    return os.path.dirname(name.replace("\\", "/"))


class Nearness:
    """Files whose names are most like that of a missing one; the list is looked through once for all that are missing."""

    def __init__(self, names: Sequence[str]):
        self.names = names

    @cached_property
    def _by_word(self) -> dict[str, list[int]]:
        """Places in the list."""
        found: dict[str, list[int]] = {}
        for at, name in enumerate(self.names):
            for word in _word_set(name):
                found.setdefault(word, []).append(at)
        return found

    def near(self, name: str, count: int = 5) -> list[str]:
        """By the words in it first and its letters then."""
        shared = Counter(at for word in _word_set(name) for at in self._by_word.get(word, ()))
        likely = [self.names[at] for at in nsmallest(MAX_LIKELY, shared, key=lambda at: (-shared[at], at))]
        stem = _stem(name)
        return sorted(likely, key=lambda other: -difflib.SequenceMatcher(None, stem, _stem(other)).ratio())[:count]


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name.replace("\\", "/")))[0].lower()[:200]


def _word_set(name: str) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9\u0080-\uffff]+|(?<=[a-z])(?=[0-9])", _stem(name)) if len(word) > 1}
