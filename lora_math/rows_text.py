"""The text of a LoRA stack: one line for a LoRA, and lines that put them in order. Read here and nowhere else.

    # Style                                             a heading: its rows form a group
    <lora:style/ink:0.8>                                a LoRA, as a prompt's tag names it
    off <lora:style/oil:0.6:0.3> // too dark            a row that is off, with a note
    lock <lora:detail:0.5:lbw=OUT*=1,default=0>         a row that multiplying and switching all leave alone
    pick <lora:style/*:0.7>                             one file of a folder, by the seed; ** also of the folders in it
    off # Faces                                         a heading that switches its whole group off
    pick # Eyes                                         a heading of whose rows the seed picks one
    // anything                                         a note on a line of its own
    strata rows 1                                       the version, only ever the first line; without it this version

A line of a prompt with tags among other words stands for its tags. A line that none of this fits is kept as it is and says what is wrong
with it: joining the lines of the rows gives back the text, whatever it was.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from .errors import StrataError
from .tag_places import find_tags
from .tag_surroundings import refuse_more_than_words
from .tags import LoraTag, format_tag, read_tag

VERSION = 1
# The most lines; more is no stack that anybody made.
MAX_ROWS = 2000
NOTE = "//"
PICKED = "pick #"
Kind = Literal["lora", "heading", "note", "prompt", "version", "blank", "unread"]

_WORD = re.compile(r"[ \t]*(off|lock|pick)(?![^ \t<#])[ \t]*", re.IGNORECASE)
# What stands in front of a row's tag where somebody wanted a word or a sign to switch it: no words of a prompt.
_NEARLY_WORD = re.compile(r"(?:(?:off|lock|pick)(?![^\W_])|[-!~;%/*+=.:,_\s])+", re.IGNORECASE)
_LIST_SIGNS = frozenset(", _\t")
_END = re.compile(r"\\.|>")
_VERSION = re.compile(r"strata[ \t]+rows[ \t]+(\d{1,9})", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One line. ``line``: as it is written, without its end; ``tags``: one for "lora", any number for "prompt"; ``title``: a heading's;
    ``note``: behind the tag, or the whole of a note; ``problem``: why a line is "unread", else empty. ``on`` is its own switch, whatever
    its heading says."""

    line: str
    kind: Kind
    on: bool = True
    locked: bool = False
    pick: bool = False
    tags: tuple[LoraTag, ...] = ()
    title: str = ""
    note: str = ""
    problem: str = ""


def read_rows(text: str) -> list[Row]:
    """The rows of a text, one for each line. Never raises: what is not understood is an "unread" row.

    ``"\\n".join(row.line for row in read_rows(text)) == text`` for every text.
    """
    lines = text.split("\n")
    if len(lines) > MAX_ROWS:
        head, rest = lines[:MAX_ROWS], "\n".join(lines[MAX_ROWS:])
        return [*read_rows("\n".join(head)), Row(rest, "unread", problem=f"A stack has at most {MAX_ROWS} lines.")]
    rows = [_read(line) for line in lines]
    if (version := _VERSION.fullmatch(lines[0].strip())) is not None:
        newer = int(version[1]) > VERSION
        why = f"These rows are of version {version[1]}, which this version of the pack does not know: update it."
        rows[0] = Row(lines[0], "unread", problem=why) if newer else Row(lines[0], "version")
    return rows


def _read(line: str) -> Row:
    rest, words = line, set()
    while (word := _WORD.match(rest)) is not None and word[1].lower() not in words:
        words.add(word[1].lower())
        rest = rest[word.end() :]
    rest = rest.strip()
    on, locked, pick = "off" not in words, "lock" in words, "pick" in words
    if not rest and not words:
        return Row(line, "blank")
    if rest.startswith("#"):
        return Row(line, "heading", on, locked, pick, title=rest[1:].strip())
    if rest.startswith(NOTE) and not words:
        return Row(line, "note", note=rest[len(NOTE) :].strip())
    try:
        end = _tag_end(rest)
        tail = rest[end:].strip()
        if end and (not tail or tail.startswith(NOTE)):
            return Row(line, "lora", on, locked, pick, (read_tag(rest[:end]),), note=tail[len(NOTE) :].strip())
        places = () if words else find_tags(rest)
        if places:
            _refuse_nearly_words(rest[: places[0].start])
            refuse_more_than_words(rest, places)
        tags = tuple(read_tag(rest[place.start : place.stop]) for place in places)
    except StrataError as problem:
        return Row(line, "unread", on, locked, pick, problem=str(problem))
    if tags:
        return Row(line, "prompt", tags=tags)
    why = (
        "words stand beside its LoRA; write // in front of a note."
        if end
        else "it names no LoRA: write <lora:name:strength>."
    )
    return Row(line, "unread", on, locked, pick, problem=why)


def _refuse_nearly_words(head: str) -> None:
    """``off: <lora:x:1>`` and ``-<lora:x:1>`` are meant to do something."""
    if _NEARLY_WORD.fullmatch(head) and not _LIST_SIGNS.issuperset(head):
        raise StrataError(
            f"'{head.strip()[:40]}' in front of a LoRA has no meaning. Write off, lock or pick and a space, // for a note, or nothing."
        )


def _tag_end(text: str) -> int:
    """Behind the first ``>`` that no backslash stands before, where the text begins like a tag; else 0."""
    if not text.startswith("<"):
        return 0
    return next((match.end() for match in _END.finditer(text) if match[0] == ">"), 0)


def lora_row(tag: LoraTag, on: bool = True, locked: bool = False, pick: bool = False, note: str = "") -> Row:
    """A row for a LoRA with the line that says it."""
    note = " ".join(note.split())
    line = f"{_words(on, locked, pick)}{format_tag(tag)}{f' {NOTE} {note}' if note else ''}"
    return Row(line, "lora", on, locked, pick, (tag,), note=note)


def _words(on: bool, locked: bool, pick: bool) -> str:
    return "".join(word for word, said in (("off ", not on), ("lock ", locked), ("pick ", pick)) if said)


@dataclass(frozen=True)
class Acting:
    """What one row, or one group of which the seed picks a row, does. ``tags``: one of these; ``group``: the heading of a picked group."""

    tags: tuple[LoraTag, ...]
    from_folder: tuple[bool, ...]
    group: str | None = None


def acting(rows: Iterable[Row]) -> list[Acting]:
    """What is on, in order."""
    found: list[Acting] = []
    group_on, picked, title = True, None, ""

    def close() -> None:
        if picked:
            found.append(Acting(tuple(tag for tag, _ in picked), tuple(one for _, one in picked), title))

    for row in rows:
        if row.kind == "heading":
            close()
            group_on, title = row.on, row.title
            picked = [] if row.pick and row.on else None
        elif row.kind in ("lora", "prompt") and row.on and group_on:
            for tag in row.tags:
                if picked is None:
                    found.append(Acting((tag,), (row.pick,)))
                else:
                    picked.append((tag, row.pick))
    close()
    return found


def problems(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """(line number from 1, what is wrong) of every line that is on and not understood."""
    found, group_on = [], True
    for number, row in enumerate(rows, 1):
        group_on = row.on if row.kind == "heading" else group_on
        if row.kind == "unread" and row.on and group_on:
            found.append((number, row.problem))
    return found


def reduced(rows: Sequence[Row]) -> str:
    """A text that does the same without what does nothing: rows that are off, notes, locks, titles. Editing those leaves it as it is."""
    # Whether the seed picks one, and the lines.
    groups: list[tuple[bool, list[str]]] = [(False, [])]
    group_on = True
    for row in rows:
        if row.kind == "heading":
            group_on = row.on
            groups.append((row.on and row.pick, []))
        elif row.on and group_on and row.kind == "unread":
            groups[-1][1].append(row.line)
        elif row.on and group_on:
            groups[-1][1].extend(lora_row(tag, pick=row.pick).line for tag in row.tags)
    lines: list[str] = []
    in_picked = False
    for is_picked, own in groups:
        if own:
            lines += [PICKED] if is_picked else ["#"] if in_picked else []
            lines += own
            in_picked = is_picked
    return "\n".join(lines)


def is_in_folder(name: str, pattern: str) -> bool:
    """Whether a file's name belongs to ``folder/*`` (of this folder), ``folder/**`` (of those in it too), or to a beginning of a name
    before the stars. Upper and lower case, and the two slashes, count as the same."""
    name, pattern = _compared(name), _compared(pattern)
    start = pattern.rstrip("*")
    return name.startswith(start) and (pattern.endswith("**") or "/" not in name[len(start) :])


class FolderFiles:
    """Which files ``is_in_folder`` finds, for many patterns: the names are put in order once, each pattern then costs a few looks."""

    def __init__(self, names: Callable[[], Iterable[str]]):
        """names: asked for when the first pattern comes."""
        self._names = names
        self._found: dict[tuple[str, bool], list[str]] = {}

    @cached_property
    def _whole(self) -> list[tuple[str, str]]:
        """(name as it is compared, name), in order."""
        return sorted((_compared(name), name) for name in self._names())

    @cached_property
    def _by_folder(self) -> list[tuple[tuple[str, str], str]]:
        """((folder, name in it), name), in order."""
        return sorted((_folder_and_base(whole), name) for whole, name in self._whole)

    def of(self, pattern: str) -> list[str]:
        """The names, in order."""
        key = _compared(pattern).rstrip("*"), pattern.endswith("**")
        if key not in self._found:
            listed, start, stop = self._range(*key)
            self._found[key] = sorted(name for _, name in listed[start:stop])
        return self._found[key]

    def count(self, pattern: str) -> int:
        """How many there are."""
        _, start, stop = self._range(_compared(pattern).rstrip("*"), pattern.endswith("**"))
        return stop - start

    def _range(self, beginning: str, is_deep: bool) -> tuple[list, int, int]:
        if is_deep:
            listed, wanted, cut = self._whole, beginning, lambda item: item[0][: len(beginning)]
        else:
            wanted = _folder_and_base(beginning)
            listed, cut = self._by_folder, lambda item: (item[0][0], item[0][1][: len(wanted[1])])
        return listed, bisect_left(listed, wanted, key=cut), bisect_right(listed, wanted, key=cut)


def _compared(name: str) -> str:
    return name.replace("\\", "/").lower()


def _folder_and_base(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    return folder + slash, base


def picked(seed: int, what: str, repeat: int, count: int) -> int:
    """Which of ``count`` things a seed picks; ``what`` they are and the how manieth time the same is asked for make it another pick."""
    digest = hashlib.sha256(f"{seed}|{repeat}|{what}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % count
