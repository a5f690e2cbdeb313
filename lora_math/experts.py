"""The two experts of a model that is a pair, such as Wan 2.2: one for much noise (high), one for little (low). Which of them a file is
for, and what the file of the other one is called.

By its name: one whole word high or low, as in ``style_high_noise``, ``style-HIGH``, ``StyleLowNoise`` or ``low/style``, and the other
half's name is the same with the other word. A word with "noise" behind it outranks the others: ``low_rank_high_noise`` and
``low vram/style_high_noise`` are high. By its header: ``modelspec.timestep_range``, which musubi-tuner writes, counts from 0 (no
noise) to 1000.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import StrataError
from .numbers import finite

Expert = Literal["high", "low"]
RANGE = "modelspec.timestep_range"
MOST_NOISE = 1000.0
# The most words high and low in a name that are looked at one by one; no file that anybody made has so many.
_MOST_WORDS = 8
_SHOWN = 3

# A word ends where no letter follows, where a word with a large first letter does, or at "noise".
_WORD = re.compile(
    r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[HL]))(?:(?P<lower>high|low)|(?P<upper>HIGH|LOW)|(?P<title>High|Low))"
    r"(?:(?P<noise>[ _-]?(?i:noise))|(?![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
)
_LETTER = re.compile(r"(?<![A-Za-z0-9])(?:[hH]|[lL])(?![A-Za-z0-9])")
_OTHER = {"high": "low", "low": "high", "h": "l", "l": "h"}


@dataclass(frozen=True)
class Half:
    """What is known of one file. expert: which it is for, None where nothing tells or where it is for both; other: the name of the other
    half's file, None where there is none; doubt: what speaks against ``expert``, for people, else empty; bare: the two are a pair by a word
    without "noise" alone."""

    expert: Expert | None = None
    other: str | None = None
    doubt: str = ""
    bare: bool = False


def expert_of_header(metadata: Mapping[str, str]) -> Expert | None:
    """Which expert the header says that a file was trained for; None where it says nothing, or both."""
    first, comma, last = str(metadata.get(RANGE, ""))[:80].partition(",")
    low, high = finite(first.strip()), finite(last.strip())
    if not comma or low is None or high is None or not 0 <= low < high <= MOST_NOISE:
        return None
    if low > 0 and high == MOST_NOISE:
        return "high"
    return "low" if low == 0 and high < MOST_NOISE else None


def expert_in_name(name: str) -> Expert | None:
    """Which expert a name says, where all its words high and low that count say the same."""
    return _same(_telling(_words(name)))


def half_of(name: str, names: Container[str], in_header: Callable[[str], Expert | None]) -> Half:
    """names: of all files, among them this one. in_header: what ``expert_of_header`` says of a file, asked for few.

    A single letter (``style-H``) counts only where the headers of both files say the same as the two letters. A word alone counts only with
    "noise" behind it or with the other half's file there, where no header says another thing: ``low_light`` is no expert. Raises
    StrataError where several files could be the other half.
    """
    said, others = in_header(name), _others(name, names, in_header)
    if len(others) > 1:
        shown = ", ".join(sorted(others)[:_SHOWN])
        raise StrataError(
            f"{name}: {len(others)} files could be the other half of this pair: {shown}. Rename the files so that one word differs, or "
            "give each a row of its own."
        )
    other = next(iter(others), None)
    # Of a name that says both, what differs from the other half's counts.
    named = others[other] if other is not None else _strong(name)
    if said is not None and named is not None and said != named:
        return Half(said, other, f"its name says {named}, its header was trained on {said} noise")
    bare = other is not None and said is None and not _has_noise(_words(name))
    return Half(said or named, other, bare=bare)


def _others(name: str, names: Container[str], in_header: Callable[[str], Expert | None]) -> dict[str, Expert]:
    """name of what may be the other half -> the expert that this one then is."""
    found: dict[str, Expert] = {}
    words = _words(name)
    telling = _telling(words)
    for word in telling:
        found[_swapped(name, [word])] = _meaning(word)
    # In "high/style_high_noise" the folder's word may change with the other one.
    for together in (telling, words):
        expert = _same(together)
        if expert is not None:
            found[_swapped(name, together)] = expert
    found = {other: expert for other, expert in found.items() if other in names}
    if not _has_noise(words):
        found = {
            other: expert
            for other, expert in found.items()
            if in_header(name) in (None, expert) and in_header(other) in (None, _OTHER[expert])
        }
    if found:
        return found
    for letter in list(_LETTER.finditer(name))[:_MOST_WORDS]:
        other, expert = _swapped(name, [letter]), "high" if letter[0] in "hH" else "low"
        if other in names and in_header(name) == expert and in_header(other) == _OTHER[expert]:
            found[other] = expert
    return found


def _words(name: str) -> list[re.Match[str]]:
    return list(_WORD.finditer(name))[:_MOST_WORDS]


def _strong(name: str) -> Expert | None:
    """What the name says without any other file beside it."""
    return _same([word for word in _words(name) if word["noise"]])


def _has_noise(words: list[re.Match[str]]) -> bool:
    return any(word["noise"] for word in words)


def _telling(words: list[re.Match[str]]) -> list[re.Match[str]]:
    """Those with "noise" behind them where these say the same, else all: an angle, a rank or a folder may be low or high too."""
    loud = [word for word in words if word["noise"]]
    return words if _same(loud) is None else loud


def _same(words: list[re.Match[str]]) -> Expert | None:
    """What they say, where all say the same."""
    found = {_meaning(word) for word in words}
    return found.pop() if len(found) == 1 else None


def _meaning(word: re.Match[str]) -> Expert:
    return "high" if word[0][0] in "hH" else "low"


def _swapped(name: str, words: list[re.Match[str]]) -> str:
    """The name with each of these words turned into the other one, written as it was."""
    pieces, at = [], 0
    for word in words:
        text = word[0][: len("high" if _meaning(word) == "high" else "low")] if len(word[0]) > 1 else word[0]
        other = _OTHER[text.lower()]
        other = other if text.islower() else other.upper() if text.isupper() else other.capitalize()
        pieces += [name[at : word.start()], other]
        at = word.start() + len(text)
    return "".join([*pieces, name[at:]])
