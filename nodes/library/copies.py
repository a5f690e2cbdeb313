"""Which LoRA files are the same: by the hashes of their data, as their headers tell them or as they are, and by what they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...lora_math.inspecting.library import SAME
from .contents import Content, Likeness
from .index import Known

DATA, CONTENT = "data", "content"


@dataclass(frozen=True)
class Copy:
    """One of several files that are the same. group: a number for them; first: the name that is shown first of them; count: how many they
    are; how: DATA or CONTENT, in which way it is the same as the first one; likeness: to that one, None where it is not known."""

    group: int
    first: str
    count: int
    how: str
    likeness: Likeness | None = None


def copies(
    files: Mapping[str, tuple[str, Known]], contents: Mapping[str, Content], pairs: Mapping[tuple[str, str], Likeness]
) -> dict[str, Copy]:
    """By name, of those that are the same as another. files: full path and header by name; contents, pairs: by full path."""
    data_of = {name: _data(known, contents.get(path)) for name, (path, known) in files.items()}
    sets = _Sets()
    by_data: dict[tuple[str, int], list[str]] = {}
    for name, data in data_of.items():
        if data is not None:
            by_data.setdefault(data, []).append(name)
    for names in by_data.values():
        for name in names[1:]:
            sets.join(names[0], name)
    now = {
        path: name for name, (path, known) in files.items() if path in contents and contents[path].stamp == known.stamp
    }
    likeness = {}
    for (first, second), found in pairs.items():
        if first in now and second in now and abs(found.cosine) >= SAME:
            sets.join(now[first], now[second])
            likeness[data_of[now[first]], data_of[now[second]]] = found
    answer = {}
    for group, names in enumerate(sets.groups()):
        of_first = data_of[names[0]]
        for name in names:
            same_data = data_of[name] is not None and data_of[name] == of_first
            like = None if same_data else _between(likeness, of_first, data_of[name])
            answer[name] = Copy(group, names[0], len(names), DATA if same_data else CONTENT, like)
    return answer


def _data(known: Known, content: Content | None) -> tuple[str, int] | None:
    """Hash and size of a file's data. A header's hash counts where nobody has read the file; some tools copy it into files of other data,
    which are of another size then."""
    if content is not None and content.stamp == known.stamp and content.data:
        return content.data, known.data
    return (known.hash, known.data) if known.hash else None


def _between(likeness: Mapping, first, second) -> Likeness | None:
    if (found := likeness.get((first, second))) is not None:
        return found
    other = likeness.get((second, first))
    return other and Likeness(other.cosine, other.scale and 1 / other.scale)


class _Sets:
    """Names that belong together (union by size, with paths halved)."""

    def __init__(self):
        self._above: dict[str, str] = {}
        self._size: dict[str, int] = {}

    def _top(self, name: str) -> str:
        above = self._above
        while (parent := above.setdefault(name, name)) != name:
            above[name] = name = above[parent]
        return name

    def join(self, first: str, second: str) -> None:
        first, second = self._top(first), self._top(second)
        if first == second:
            return
        sizes = self._size.get(first, 1), self._size.get(second, 1)
        if sizes[0] < sizes[1]:
            first, second = second, first
        self._above[second] = first
        self._size[first] = sum(sizes)

    def groups(self) -> list[list[str]]:
        """Each in order, and in the order of their first names."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._above):
            found.setdefault(self._top(name), []).append(name)
        return list(found.values())
