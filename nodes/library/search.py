"""Finding LoRA files: by words, by folder, by what fits a model, in an order; a page of the answer at a time."""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import nsmallest
from typing import NamedTuple

from ...lora_math.families import related
from ...lora_math.reading.problems import show_size
from ...lora_math.tags import LoraTag, format_tag
from ..comfy import library, lora_names, user_files
from ..desk.profile import preview
from .contents import CONTENTS
from .copies import Copy, copies
from .index import INDEX, MAX_FILES, Known, places, words_of

FILE = "library.json"
MAX_RECENT, MAX_FAVOURITES = 60, 5000
# The most rows of one answer.
PAGE = 200
SORTS = ("name", "date", "recent", "size")
# Name -> (from so many bytes on, up to so many).
SIZES = {
    "small": (0, 50 << 20),
    "middle": (50 << 20, 200 << 20),
    "large": (200 << 20, 1 << 30),
    "huge": (1 << 30, 1 << 60),
}
# Which files: all of them, those that others are the same as, those that no model can use.
SHOWN = ("all", "copies", "unusable")
# Files of no family that is known.
UNKNOWN = "?"
MAX_QUERY = 200
# Of how many names the letters are compared.
MAX_LIKELY = 200


@dataclass(frozen=True)
class Question:
    """words: each in a path, title, trigger word or family; folder: "" for all; fits: a family; sort: one of SORTS. family: of the files,
    or UNKNOWN; size: one of SIZES; shown: one of SHOWN."""

    words: str = ""
    folder: str = ""
    fits: str | None = None
    sort: str = "name"
    favourites: bool = False
    start: int = 0
    count: int = 50
    family: str | None = None
    size: str | None = None
    shown: str = "all"


class Row(NamedTuple):
    """words: what a search looks through; known: None before it was learned; copy: None where no other file is the same."""

    name: str
    words: str
    known: Known | None
    copy: Copy | None

    @property
    def problem(self) -> str:
        return self.known.problem if self.known else ""


class Shelf(NamedTuple):
    """families: (name, how many files) of those that there are."""

    rows: list[Row]
    folders: list[str]
    families: list[tuple[str, int]]


class Library:
    """The names of the list with what is known of them, made ready for searching. Kept until the list or the index changes."""

    def __init__(self):
        self._lock = threading.Lock()
        self._made_of: tuple | None = None
        self._shelf = Shelf([], [], [])

    def shelf(self) -> Shelf:
        names = lora_names.lora_names()
        with self._lock:
            made_of = (id(INDEX), id(CONTENTS), hash(tuple(names)), INDEX.revision, CONTENTS.revision)
            if made_of != self._made_of:
                self._shelf = _shelf(names)
                self._made_of = made_of
            return self._shelf


def _shelf(names: Sequence[str]) -> Shelf:
    listed, (contents, pairs) = INDEX.by_name(), CONTENTS.all()
    same = copies(listed, contents, pairs)
    rows = []
    for name in names:
        path, known = listed.get(name, ("", None))
        # What only reading the tensors finds.
        content = contents.get(path)
        if known and not known.problem and content and content.problem and content.stamp == known.stamp:
            known = replace(known, problem=content.problem)
        rows.append(Row(name, words_of(name, known), known, same.get(name)))
    families = Counter(row.known.family or UNKNOWN for row in rows if row.known and not row.problem)
    ordered = sorted(families.items(), key=lambda one: (one[0] == UNKNOWN, -one[1], one[0]))
    return Shelf(rows, sorted({_folder(name) for name in names} - {""}), ordered)


LIBRARY = Library()


def search(question: Question) -> dict:
    """The answer for the browser: how many there are, and in other folders than the one that is asked for, a page of them, the folders, and
    how many files are still to be learned."""
    INDEX.learn()
    rows, folders, families = LIBRARY.shelf()
    marks = user_files.read_json(FILE)
    favourites, recent = _names(marks, "favourites"), _names(marks, "recent")
    words = question.words[:MAX_QUERY].lower().split()
    starred, inside = set(favourites), question.folder.replace("\\", "/").strip("/") + "/"
    everywhere = [
        row
        for row in rows
        if all(word in row.words for word in words)
        and (not question.favourites or row.name in starred)
        and _fits(row.known, question.fits)
        and _is_of(row, question)
    ]
    found = [row for row in everywhere if inside == "/" or row.name.replace("\\", "/").startswith(inside)]
    if question.sort == "date":
        found.sort(key=lambda row: -(row.known.modified if row.known else 0))
    elif question.sort == "size":
        found.sort(key=lambda row: -(row.known.size if row.known else 0))
    elif question.sort == "recent":
        at = {name: place for place, name in enumerate(recent)}
        found.sort(key=lambda row: at.get(row.name, len(recent)))
    if question.shown == "copies":
        # Those that are the same stand together, in the order of the first of them.
        at = {}
        for row in found:
            at.setdefault(row.copy.group, len(at))
        found.sort(key=lambda row: at[row.copy.group])
    page = found[question.start : question.start + min(question.count, PAGE)]
    return {
        "total": len(found),
        "elsewhere": len(everywhere) - len(found),
        "all": len(rows),
        "rows": [_row(row, row.name in starred) for row in page],
        "folders": folders,
        "families": families,
        "learning": INDEX.waiting,
        "contents": CONTENTS.state(),
    }


def compare_contents(go: bool) -> dict:
    """Starts reading and comparing all files, or stops it; gives how far it is."""
    if go:
        CONTENTS.start(lambda: places(lora_names.lora_names()[:MAX_FILES]).values())
    else:
        CONTENTS.stop()
    return CONTENTS.state()


def _is_of(row: Row, question: Question) -> bool:
    """Whether a file passes the filters that ask what is known of it."""
    if question.shown == "copies" and row.copy is None:
        return False
    if question.shown == "unusable" and not row.problem:
        return False
    if question.size is not None:
        low, high = SIZES[question.size]
        if row.known is None or not low <= row.known.size < high:
            return False
    if question.family is None:
        return True
    return row.known is not None and not row.problem and (row.known.family or UNKNOWN) == question.family


def found_row(name: str) -> dict:
    """What a page is told of one file, looked at here where the background has not been."""
    path = library.shown_path(name)
    known = None if path is None else INDEX.now(path)
    return _shown(name, path, known, name in _names(user_files.read_json(FILE), "favourites"))


def _row(row: Row, favourite: bool) -> dict:
    answer = _shown(row.name, library.shown_path(row.name), row.known, favourite)
    if row.copy is not None:
        copy = row.copy
        answer["copy"] = {"first": copy.first, "count": copy.count, "how": copy.how}
        if copy.likeness is not None:
            answer["copy"] |= {"cosine": copy.likeness.cosine, "scale": copy.likeness.scale}
    return answer


def _shown(name: str, path: str | None, known: Known | None, favourite: bool) -> dict:
    answer = {
        "name": name,
        "tag": head(name),
        "favourite": favourite,
        "preview": None if path is None else preview(path, name),
    }
    if known is not None:
        answer |= {"family": known.family, "title": known.title, "words": list(known.words), "problem": known.problem}
        answer["size"] = show_size(known.size)
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
