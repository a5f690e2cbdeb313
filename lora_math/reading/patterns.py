r"""Regular expressions out of files, matched in one pass over a name whatever a stranger wrote.

PEFT keeps alphas and ranks of single modules under expressions such as ``to_k``, ``blocks.1.to_q``, ``.*\.mid\..*`` or
``blocks\.\d+\.(to_q|to_k)``. Python's engine tries their readings one after the other, which for ``(a|aa)(a|aa)...`` takes exponential
time. Read here is the part of the language that names of modules need: characters, ``.``, ``\d``, ``\w``, ``[...]``, each with
``* + ? {m,n}`` or without, and alternatives ``(a|b)`` that are not repeated themselves. All expressions go into one automaton, which
reads a name from its end, where they are anchored, and holds every common ending once; all its states are followed at once
(Thompson 1968).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..errors import StrataError

# The most characters of an expression.
MAX_LENGTH = 1000
# The most groups inside each other.
MAX_DEPTH = 20
# The most readings of one expression, its alternatives written out.
MAX_READINGS = 64
# The most repetitions in {m,n}.
MAX_REPEATS = 8
# The most different classes and repeated characters, each of which Python compiles.
MAX_TESTS = 500
# The most characters of all expressions together, alternatives written out.
MAX_SIZE = 500_000
# The most steps for all names together, some seconds; a file of two thousand layers takes a tenth of it.
MAX_STEPS = 3_000_000

# What one character must be: (itself, None), or (a class as the language writes it, whether it may come any number of times).
Item = tuple[str, bool | None]

_CLASSES = "dDwWsS"
_REPEAT = re.compile(r"\{([0-9]{0,3})(,?)([0-9]{0,3})\}")
# In a class these are reserved by Python for other meanings.
_UNCLEAR = ("[", "--", "&&", "||", "~~")


class UnreadPattern(StrataError):
    """An expression outside of the part of the language that is read here, or one that takes too long."""


class _Node:
    """A state: where each character, each class and each repeated class leads."""

    __slots__ = ("classes", "ends", "ends_whole", "literals", "loop", "loops")

    def __init__(self, loop: Callable | None = None) -> None:
        self.literals: dict[str, _Node] = {}
        self.classes: dict[str, tuple[Callable, _Node]] = {}
        # Loops are reached without a character.
        self.loops: dict[str, _Node] = {}
        self.loop = loop
        # The first expression that has been read when this state is reached.
        self.ends: int | None = None
        # The same of those that must fit the whole name.
        self.ends_whole: int | None = None


class Patterns:
    """Expressions in order; ``first(name)`` finds the first that fits, as PEFT's ``get_pattern_key`` does.

    whole: they must fit the whole name; otherwise the end of it, from its start or from behind a dot.
    Raises UnreadPattern, with the expression, for one that is not read.
    """

    def __init__(self, texts: Sequence[str], whole: bool = False) -> None:
        self._whole = whole
        self._root = _Node()
        self._tests: dict[str, Callable] = {}
        self._size = self._steps = 0
        for place, text in enumerate(texts):
            anchored, readings = _readings(text, self._test)
            for items in readings:
                self._size += len(items)
                if self._size > MAX_SIZE:
                    raise UnreadPattern("its expressions are longer than any model needs")
                self._add(place, anchored or whole, items)

    def _add(self, place: int, whole: bool, items: Sequence[Item]) -> None:
        node = self._root
        for test, repeats in reversed(items):
            if repeats is None:
                node = node.literals.setdefault(test, _Node())
            elif repeats:
                node = node.loops.setdefault(test, _Node(self._test(test)))
            else:
                node = node.classes.setdefault(test, (self._test(test), _Node()))[1]
        if whole:
            node.ends_whole = place if node.ends_whole is None else node.ends_whole
        else:
            node.ends = place if node.ends is None else node.ends

    def _test(self, text: str) -> Callable:
        """What tells whether a character is one of a class. Raises re.error where Python has no such class."""
        if text not in self._tests:
            if len(self._tests) == MAX_TESTS:
                raise UnreadPattern("its expressions have more classes than any model needs")
            self._tests[text] = re.compile(text, re.DOTALL).match
        return self._tests[text]

    def first(self, name: str) -> int | None:
        """The place of the first expression that fits; None where none does. Raises UnreadPattern when the names took too long."""
        found: list[int] = []
        states = _with_loops({self._root: None})
        for at in range(len(name), -1, -1):
            if at == 0:
                found += [node.ends_whole for node in states if node.ends_whole is not None]
            if at == 0 or name[at - 1] == ".":
                found += [node.ends for node in states if node.ends is not None]
            if at == 0 or not states:
                break
            character, reached = name[at - 1], {}
            for node in states:
                self._steps += 1 + len(node.classes)
                if node.loop is not None and node.loop(character):
                    reached[node] = None
                if (following := node.literals.get(character)) is not None:
                    reached[following] = None
                reached.update((to, None) for fits, to in node.classes.values() if fits(character))
            if self._steps > MAX_STEPS:
                raise UnreadPattern("its expressions fit its names in too many ways to be tried")
            states = _with_loops(reached)
        return min(found, default=None)


def _with_loops(states: dict[_Node, None]) -> dict[_Node, None]:
    waiting = [node for node in states if node.loops]
    while waiting:
        for node in waiting.pop().loops.values():
            if node not in states:
                states[node] = None
                waiting.append(node)
    return states


def _readings(text: str, test: Callable) -> tuple[bool, list[list[Item]]]:
    """(whether it must fit the whole name, every way to write the expression out without alternatives)."""
    if len(text) > MAX_LENGTH:
        raise _unread(text, "is too long")
    body = text.removeprefix("^")
    reader = _Reader(text, body[:-1] if body.endswith("$") and not body.endswith("\\$") else body, test)
    readings = reader.alternatives(0)
    if reader.at < len(reader.body) or (len(text) > len(reader.body) and reader.outer_bar):
        raise _unread(text, "is not read here")
    return text.startswith("^"), readings


class _Reader:
    """Takes one expression apart, from left to right."""

    def __init__(self, text: str, body: str, test: Callable) -> None:
        self.text, self.body, self.test, self.at, self.outer_bar = text, body, test, 0, False

    def alternatives(self, depth: int) -> list[list[Item]]:
        """Up to the closing bracket, which stays."""
        found = self._sequence(depth)
        while self.body.startswith("|", self.at):
            self.outer_bar |= depth == 0
            self.at += 1
            found = self._bounded([*found, *self._sequence(depth)])
        return found

    def _sequence(self, depth: int) -> list[list[Item]]:
        found: list[list[Item]] = [[]]
        while self.at < len(self.body) and self.body[self.at] not in "|)":
            part = self._group(depth) if self.body[self.at] == "(" else self._repeated(self._character())
            self._bounded(found * len(part))
            if len(part) == 1:
                for before in found:
                    before += part[0]
            else:
                found = [before + after for before in found for after in part]
        return found

    def _group(self, depth: int) -> list[list[Item]]:
        self.at += 3 if self.body.startswith("(?:", self.at) else 1
        if depth == MAX_DEPTH or self.body.startswith("?", self.at):
            raise _unread(self.text, "is not read here")
        found = self.alternatives(depth + 1)
        if not self.body.startswith(")", self.at):
            raise _unread(self.text, "has a bracket that is not closed")
        self.at += 1
        if self.body.startswith("?", self.at):
            self.at += 1
            found = [*found, []]
        if self.at < len(self.body) and (self.body[self.at] in "*+?" or _REPEAT.match(self.body, self.at)):
            raise _unread(self.text, "repeats a group, which is not read here")
        return found

    def _character(self) -> Item:
        """One character or class."""
        body, start = self.body, self.at
        character = body[start]
        self.at += 1
        if character == "\\":
            escaped = body[self.at : self.at + 1]
            self.at += 1
            if escaped in _CLASSES and escaped:
                return f"\\{escaped}", False
            if not escaped or escaped.isalnum():
                raise _unread(self.text, "is not read here")
            return escaped, None
        if character == ".":
            return ".", False
        if character == "[":
            return self._class(start), False
        if character in "*+?^$" or _REPEAT.match(body, start):
            raise _unread(self.text, "is not read here")
        return character, None

    def _class(self, start: int) -> str:
        at = start + 1 + self.body.startswith("^", start + 1)
        at += self.body.startswith("]", at)
        while at < len(self.body) and self.body[at] != "]":
            at += 2 if self.body[at] == "\\" else 1
        self.at = at + 1
        found = self.body[start : self.at]
        try:
            if any(unclear in found[1:] for unclear in _UNCLEAR):
                raise re.error("unclear")
            self.test(found)
        except re.error:
            raise _unread(self.text, "has a class that is not read here") from None
        return found

    def _repeated(self, item: Item) -> list[list[Item]]:
        """The ways in which a character may come, by what stands behind it."""
        test, repeats = item
        loop = (re.escape(test) if repeats is None else test, True)
        sign = self.body[self.at : self.at + 1]
        if sign in ("*", "+", "?"):
            self.at += 1
            found = {"*": [[loop]], "+": [[item, loop]], "?": [[item], []]}[sign]
        elif match := _REPEAT.match(self.body, self.at):
            self.at = match.end()
            low = int(match[1] or 0)
            high = low if not match[2] else int(match[3] or -1)
            if max(low, high) > MAX_REPEATS or match[0] in ("{}", "{,}") or (match[2] and match[3] and high < low):
                raise _unread(self.text, "is not read here")
            found = [[item] * low + [loop]] if high < 0 else [[item] * n for n in range(low, high + 1)]
        else:
            return [[item]]
        # A lazy repetition fits the same names.
        if self.body.startswith("?", self.at):
            self.at += 1
        return found

    def _bounded(self, readings: list) -> list:
        if len(readings) > MAX_READINGS:
            raise _unread(self.text, "has too many alternatives")
        return readings


def _unread(text: str, why: str) -> UnreadPattern:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return UnreadPattern(f"its expression {shown!r} {why}")
