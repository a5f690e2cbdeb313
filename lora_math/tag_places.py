"""Where ``<lora:name:strength>`` tags stand in a text, and what is only nearly one. What a tag says, ``tags`` reads."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from .errors import StrataError

# How many letters of a tag a message shows.
_SHOWN = 120
_PLAIN_STARTS = ("<lora:", "<lyco:")

# What people, input methods and web pages write in the place of < : > and of no space at all. Invisible signs count as spaces.
# Those behind the first two are quotation marks of languages: a title between them may begin with such a word and a colon.
_OPENERS = "<\uff1c\u2039\u00ab\u3008\u300a\u27e8\u27ea"
_CLOSERS = ">\uff1e\u203a\u00bb\u3009\u300b\u27e9\u27eb"
_GAP = r"[\s\u00ad\u200b-\u200f\u2060\ufeff]"
_SEPARATORS = r"[:;=/\uff1a\uff1b\uff1d\ufe55\u2236\ua789]"
# Also with the wide letters of a Chinese or Japanese input method.
_WORDS = "|".join(
    "".join(f"[{letter}{chr(ord(letter) + 0xFEE0)}]" for letter in word)
    for word in ("loras", "lora", "lycoris", "lyco", "locon", "loha", "lokr", "dora")
)

# One pass over the text: no two parts of an expression can match the same letter in turn, or what they match together is short.
_STRENGTH = rf"(?=[^:;=/\uff1a\uff1b\uff1d\ufe55\u2236\ua789\n]{{1,80}}{_SEPARATORS}{_GAP}*[-+]?[.0-9])"
_START = re.compile(
    rf"(?:[{_OPENERS[:2]}]|&lt;){_GAP}*(?:{_WORDS})(?:{_GAP}*{_SEPARATORS}|{_GAP}[^<>:\n]{{1,80}}:)"
    rf"|[{_OPENERS[2:]}]{_GAP}*(?:{_WORDS}){_GAP}*{_SEPARATORS}{_STRENGTH}",
    re.IGNORECASE,
)
_ENDS = re.compile(r"\\|[<>]")
_LEFT_OPEN = re.compile(rf"[,\n{_OPENERS}{_CLOSERS}]")


class Placed(NamedTuple):
    """Where a tag stands: ``text[start:stop]``."""

    start: int
    stop: int


def find_tags(text: str) -> list[Placed]:
    """The places of the tags, in order. Raises StrataError for one that is not closed, or nearly a tag."""
    found: list[Placed] = []
    for place, problem in _placed(text):
        if problem is not None:
            raise problem
        found.append(place)
    return found


def find_parts(text: str) -> list[tuple[Placed, StrataError | None]]:
    """As ``find_tags``, with what is wrong with a tag in place of raising it: such a tag ends at the first comma or bracket, or with its
    line, as the words behind it are the prompt's."""
    return list(_placed(text))


def has_tags(text: str) -> bool:
    """Whether anything in a text is a tag or meant as one."""
    return _START.search(text) is not None


def _placed(text: str) -> Iterator[tuple[Placed, StrataError | None]]:
    at = 0
    while match := _START.search(text, at):
        start, is_plain = match.start(), match[0].lower() in _PLAIN_STARTS
        at, is_closed = _end(text, match) if is_plain else (match.end(), False)
        if is_closed:
            yield Placed(start, at), None
            continue
        left = _LEFT_OPEN.search(text, match.end())
        stop = len(text) if left is None else left.end() if left[0] in _CLOSERS else left.start()
        problem = (
            rf"{cut(text, start)} is not closed. Write > behind the strength; in a name, write \< and \> for these characters."
            if is_plain
            else _nearly(text, match, stop)
        )
        yield Placed(start, match.end() + len(text[match.end() : stop].rstrip())), StrataError(problem)
        # What was looked through for its end is not looked through again: it holds no tag.
        at = max(at, stop)


def _nearly(text: str, start: re.Match[str], stop: int) -> str:
    """What is wrong, with the signs that nobody sees by their numbers."""
    # Its beginning may be of two lines.
    head, rest = " ".join(start[0][:_SHOWN].split("\n")), text[start.end() : min(stop, start.end() + _SHOWN)]
    unseen = dict.fromkeys(
        f"U+{ord(sign):04X}"
        for sign in start[0][:_SHOWN]
        if sign != " " and unicodedata.category(sign) in ("Cc", "Cf", "Zs", "Zl", "Zp")
    )
    held = f" (with {', '.join(unseen)} in it)" if unseen else ""
    return (
        f"{cut(head + rest)}{held} is nearly a tag. Write <lora:name:strength>: the word lora for every kind of LoRA, "
        "nothing in front of the first colon, and the plain characters < : >."
    )


def _end(text: str, start: re.Match[str]) -> tuple[int, bool]:
    """(behind the ``>`` that closes a tag, True), or (how far it was looked for, False)."""
    at = start.end()
    while match := _ENDS.search(text, at):
        if match[0] == ">":
            return match.end(), True
        if match[0] == "<":
            return match.start(), False
        # An escaped character closes nothing.
        at = match.end() + 1
    return len(text), False


def cut(text: str, start: int = 0, stop: int | None = None) -> str:
    """A tag or a part of one, ``text[start:stop]``, for a message: its first line, with an end that leaves it readable. Costs as much for
    a long text as for a short one."""
    end = start + 4 * _SHOWN
    line = text[start : end if stop is None else min(stop, end)].partition("\n")[0]
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
