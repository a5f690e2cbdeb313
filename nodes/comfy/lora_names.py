"""LoRA files by the names that workflows give them: from other systems, other folders, and in other spellings."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

import folder_paths

from ...lora_math.errors import StrataError

# The most letters; no path is longer.
MAX_NAME = 4096
# How many names that were found before are kept.
MAX_KEPT = 1000
# The most folders called like those of the LoRAs in one path.
MAX_ROOTS = 3
SHOWN = 5

_Spelling = Callable[[str], str]


class Found(NamedTuple):
    """``name``: as this machine lists the file, the full path for one that another folder's file of the same name hides."""

    name: str
    path: str


class NameIndex:
    """The names of a list in every spelling that finds them: made once, each name is then found at once."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._exact = frozenset(names)
        self._tables = [(spelled, _table(names, spelled)) for spelled in _SPELLINGS]
        self._found: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._exact

    def name_of(self, asked: str, roots: Iterable[str] = (), suggest: bool = True) -> str:
        """As ``resolve``. roots: names of folders that hold LoRAs: what stands behind one of them in a path is meant first; suggest:
        whether to look through the whole list for what is nearly so when there is none."""
        if asked in self._exact:
            return asked
        if asked not in self._found:
            if len(self._found) == MAX_KEPT:
                self._found.clear()
            self._found[asked] = self._search(asked, {"loras", *(root.lower() for root in roots)}, suggest)
        return self._found[asked]

    def _search(self, asked: str, roots: set[str], suggest: bool) -> str:
        wanted = _plain(asked)
        parts = wanted.split("/")
        behind = islice((at + 1 for at, part in enumerate(parts[:-1]) if part.lower() in roots), MAX_ROOTS)
        meant = ["/".join(parts[at:]) for at in behind]
        for spelled, table in self._tables if len(asked) <= MAX_NAME else ():
            for path in (wanted, *meant) if spelled.by_path else (wanted,):
                hits = table.get(spelled.of_asked(path), ())
                if len(hits) == 1:
                    return hits[0]
                if hits:
                    raise StrataError(
                        f"LoRA '{_cut(asked)}' could be any of {len(hits)} files: {', '.join(sorted(hits)[:SHOWN])}. "
                        "Choose the one you mean, or write its folder too."
                    )
        near = self._near(os.path.basename(wanted)) if suggest else []
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise StrataError(
            f"LoRA '{_cut(asked)}' is not in your loras folders ({len(self.names)} files there).{hint} "
            "Put the file there and press R to refresh, or choose another one."
        )

    def _near(self, wanted: str, limit: int = 3) -> list[str]:
        """Names of files that are nearly so. One look at each name for pairs of letters, a closer one at the twenty best."""
        stem = _without_extension(wanted)[:80].lower()
        pairs = {stem[at : at + 2] for at in range(len(stem) - 1)}
        if not pairs:
            return []
        by_stem = self._tables[-1][1]
        scored = sorted(((sum(pair in other for pair in pairs), other) for other in by_stem), reverse=True)
        likely = [other[:200] for score, other in scored[:20] if 2 * score >= len(pairs)]
        close = difflib.get_close_matches(stem, likely, limit, 0.6)
        return [by_stem[other][0] for other in close if other in by_stem]


class _Spelled(NamedTuple):
    """One way to compare names. by_path: it looks at folders too."""

    of_asked: _Spelling
    of_listed: _Spelling
    by_path: bool


def _plain(name: str) -> str:
    """With slashes, and without what says nothing: ``./``, doubled slashes, slashes at the ends."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _lower(name: str) -> str:
    return _plain(name).lower()


def _base(name: str) -> str:
    return os.path.basename(_plain(name)).lower()


def _without_extension(name: str) -> str:
    return os.path.splitext(name)[0]


# In the order in which they count: with the file's extension, then as prompt tags are written, without it.
_SPELLINGS = tuple(
    _Spelled(spelled, (lambda name, spelled=spelled, ending=ending: spelled(ending(name))), spelled is not _base)
    for ending in (str, _without_extension)
    for spelled in (_plain, _lower, _base)
)


def _table(names: Iterable[str], spelled: _Spelled) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(spelled.of_listed(name), []).append(name)
    return found


_index = NameIndex([])


def index_of(names: list[str]) -> NameIndex:
    """Follows ComfyUI's list: made anew when that has changed."""
    global _index
    # Another thread may replace it.
    index = _index
    if index.names != names:
        index = _index = NameIndex(names)
    return index


def lora_names() -> list[str]:
    """What core's combo of the ``loras`` folders offers."""
    try:
        return folder_paths.get_filename_list("loras")
    # ComfyUI 0.30 trips over a folder that it has listed before and that is gone now.
    except OSError:
        return folder_paths.get_filename_list_("loras")[0]


def resolve(name: str, names: Iterable[str] | None = None) -> str:
    """The name as this machine's ``loras`` folders spell it.

    Tries in turn: the exact name; the other system's separators, and what stands behind a folder ``loras`` in a path; other upper and
    lower case; a single file of the same base name; then the same without the file's extension, as prompt tags are written. Never a
    part of a name. Raises StrataError naming the candidates when two fit, and what is nearly so when none does.
    """
    if names is not None:
        return index_of(list(names)).name_of(name)
    return locate(name).name


def locate(name: str, suggest: bool = True) -> Found:
    """The file that a name in a workflow means. An absolute path into one of the ``loras`` folders means that very file, also where
    another folder has one of the same name. suggest: as ``NameIndex.name_of``. Raises StrataError as ``resolve`` does."""
    names, roots = lora_names(), folder_paths.get_folder_paths("loras")
    index = index_of(names)
    if (path := _file_at(name)) is not None and (inside := _inside(path, roots)) is not None:
        listed = inside.replace("/", os.sep)
        if listed in index:
            shown = folder_paths.get_full_path("loras", listed)
            same = shown is not None and os.path.realpath(shown) == os.path.realpath(path)
            return Found(listed if same else path, path)
    found = index.name_of(name, map(os.path.basename, roots), suggest)
    path = folder_paths.get_full_path("loras", found)
    if path is None:
        raise StrataError(f"LoRA '{found}' is in the list but gone from the disk. Press R to refresh the list.")
    return Found(found, path)


def path_of(name: str, suggest: bool = True) -> str:
    """Full path of a LoRA by its name in a workflow. suggest: as ``NameIndex.name_of``. Raises StrataError as ``resolve`` does."""
    return locate(name, suggest).path


def is_another(asked: str, used: str) -> bool:
    """Whether the file that was used is not obviously the one that was asked for: in another folder, or of another spelling."""
    wanted, listed = _plain(asked), (_plain(used), _plain(_without_extension(used)))
    if wanted in listed:
        return False
    if (path := _file_at(asked)) is not None:
        of_used = used if os.path.isabs(used) else folder_paths.get_full_path("loras", used)
        return of_used is None or os.path.realpath(of_used) != os.path.realpath(path)
    return not (os.path.isabs(asked) and wanted.endswith(tuple(f"/{name}" for name in listed)))


def _file_at(name: str) -> str | None:
    """The file of this machine that an absolute path means, also without its extension, as prompt tags are written."""
    if not os.path.isabs(name) or "\0" in name or len(name) > MAX_NAME:
        return None
    path = os.path.normpath(name)
    known = folder_paths.folder_names_and_paths["loras"][1]
    endings = ("", *sorted(ending for ending in known if ending.startswith(".")))
    return next((path + ending for ending in endings if os.path.isfile(path + ending)), None)


def _inside(path: str, roots: Iterable[str]) -> str | None:
    """The path within the folder of LoRAs that it leads into, links followed, with slashes."""
    folder, file = os.path.split(path)
    for way in dict.fromkeys((path, os.path.join(os.path.realpath(folder), file), os.path.realpath(path))):
        for root in roots:
            for folder in (os.path.normpath(root), os.path.realpath(root)):
                if way.startswith(folder.rstrip(os.sep) + os.sep):
                    return os.path.relpath(way, folder).replace(os.sep, "/")
    return None


def _cut(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:197]}..."
