"""Presets into a file of the user's own and out of it. Everything else in the file stays, comments in a ``.bak`` beside it."""

from __future__ import annotations

import json
import os
import stat
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import grammar
from .commented_json import without_comments
from .errors import BlockTextError
from .presets import (
    ANY,
    MAX_FILE,
    MAX_PRESETS,
    Pairs,
    Preset,
    check,
    read_entry,
    read_sections,
    read_source,
    read_title,
)

# Reading, changing and writing are one step for everybody in this process: whoever comes second sees what the first one wrote.
_lock = threading.Lock()


@dataclass(eq=False)
class Section:
    """A part of a file: a title as it is written, the families that it names, none for all, and its presets by name as they are written."""

    title: str
    families: tuple[str, ...]
    entries: dict[str, object]

    def fits(self, family: str | None) -> bool:
        """Whether this family sees it; None is a model of no known family."""
        return not self.families or family in self.families

    def spelled(self, name: str) -> list[str]:
        """The ways in which a name stands here, with spaces around it or none. The last one counts."""
        return [known for known in self.entries if known.strip() == name]

    def put(self, name: str, entry: object) -> None:
        """The preset of that name, in the place of what had it."""
        *others, last = self.spelled(name) or [name]
        for other in others:
            del self.entries[other]
        self.entries[last] = entry

    def take(self, name: str) -> object:
        """What counted under a name, which is not here any more."""
        return [self.entries.pop(spelled) for spelled in self.spelled(name)][-1]


def save_preset(path: Path | str, family: str | None, name: str, weights: str, about: str = "") -> Preset:
    """Add or replace a preset in a user file (JSON), for one family or, with None, for all: it is then what they see under that name, and
    no other preset changes for anybody.

    The file is replaced in one step, so a crash leaves the old one; if it had comments, a ``.bak`` keeps
    them. Raises BlockTextError for a text that cannot be read, a name that means blocks, or a file that is broken or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise BlockTextError(f"{path.name}: presets are saved to a .json file.")
    title, place = family or ANY, lambda: path.name
    entry = {"weights": weights, "about": about} if about else weights
    preset = read_entry(name, entry, read_title(title, place), True, place)
    check(preset, place, preset.families or (None,))
    _refuse_halves(path, weights, about)

    def put(sections: list[Section]) -> bool:
        # One that a person has already stays theirs.
        if grammar.means_blocks(preset.name) and not any(section.spelled(preset.name) for section in sections):
            raise BlockTextError(
                f"The name {preset.name!r} is one of blocks or a word of block weights. Give the preset another name."
            )
        _put(sections, title, preset.families, preset.name, entry)
        return True

    _change(path, put)
    return preset


def delete_preset(path: Path | str, family: str | None, name: str) -> bool:
    """Take a preset out of a user file (JSON): the one that this family sees under the name, with None the one for all families.

    One that it shares with other families by name stays theirs, and what stood in the file before it is seen again. False if there is
    none of that name. Raises BlockTextError.
    """
    path, name = Path(path), name.strip()

    def take(sections: list[Section]) -> bool:
        # Of several the last one counts.
        at = next((at for at in reversed(range(len(sections))) if _has(sections[at], family, name)), None)
        if at is None:
            return False
        section = sections[at]
        entry = section.take(name)
        others = tuple(other for other in section.families if other != family)
        behind = sections[at + 1 :]
        if others and not any(set(known.families) == set(others) for known in sections):
            sections.insert(at + 1, Section(", ".join(others), others, {name: entry}))
        else:
            # Only where it was seen: a family that has another one of that name further down keeps that.
            for other in others:
                if not any(_has(known, other, name) for known in behind):
                    _put(sections, other, (other,), name, entry)
        if not section.entries:
            sections.remove(section)
        return True

    return path.exists() and _change(path, take)


def _has(section: Section, family: str | None, name: str) -> bool:
    return section.fits(family) and bool(section.spelled(name))


def _put(sections: list[Section], title: str, families: tuple[str, ...], name: str, entry: object) -> None:
    """The preset where it counts for these families, and where every other one stays what it was for everybody.

    families: one, or none for all.
    """
    own = next((known for known in reversed(sections) if set(known.families) == set(families)), None)
    behind = [] if own is None else sections[sections.index(own) + 1 :]
    over = [known for known in behind if not families or known.fits(families[0])]
    if own is None or any(known.spelled(name) for known in over):
        if own is not None and not any(
            known.spelled(other.strip()) for known in over for other in own.entries if other.strip() != name
        ):
            # Its other presets are the same ones at the end of the file.
            sections.remove(own)
        else:
            own = Section(title, families, {})
        sections.append(own)
    own.put(name, entry)


def _change(path: Path, change: Callable[[list[Section]], bool]) -> bool:
    """Whether ``change`` changed anything; the file is written then. Raises BlockTextError."""
    with _lock:
        try:
            source = read_source(path) if path.exists() else "{}"
            plain, commented = without_comments(source)
            sections = _sections(path, plain)
            if not change(sections):
                return False
            if sum(len(section.entries) for section in sections) > MAX_PRESETS:
                raise BlockTextError(f"{path.name} holds {MAX_PRESETS} presets already. Delete some.")
            text = _written(sections, ensure_ascii=False)
            # The file has a name that only JSON's escapes can write.
            if not _has_whole_characters(text):
                text = _written(sections, ensure_ascii=True)
            if len(text.encode()) > MAX_FILE:
                raise BlockTextError(
                    f"{path.name} would become larger than {MAX_FILE // 1_000_000} MB. Delete some presets."
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            if commented:
                _write(path.with_suffix(".json.bak"), source)
            _write(path, text)
        except OSError as error:
            raise BlockTextError(f"{path.name} cannot be written: {error.strerror or error}.") from None
    return True


def _sections(path: Path, plain: str) -> list[Section]:
    """The file as it is, in order, a title that comes twice included."""
    sections = []
    for title, entries in read_sections(path, plain):
        families = read_title(title, lambda: path.name)
        for name, entry in entries:
            read_entry(name, entry, families, True, lambda: path.name)
        # Of two of one name the last counts, as when it is read.
        plain_entries = {name: dict(entry) if isinstance(entry, Pairs) else entry for name, entry in entries}
        sections.append(Section(title, families, plain_entries))
    return sections


def _written(sections: list[Section], ensure_ascii: bool) -> str:
    """The file's text. No dictionary could hold a title twice."""
    if not sections:
        return "{}\n"

    def one(section: Section) -> str:
        title = json.dumps(section.title, ensure_ascii=ensure_ascii)
        entries = json.dumps(section.entries, indent=2, ensure_ascii=ensure_ascii)
        return f"  {title}: " + entries.replace("\n", "\n  ")

    return "{\n" + ",\n".join(map(one, sections)) + "\n}\n"


def _refuse_halves(path: Path, *texts: str) -> None:
    if not all(map(_has_whole_characters, texts)):
        raise BlockTextError(f"{path.name}: the preset holds half a character, which no file can.")


def _has_whole_characters(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _write(path: Path, text: str) -> None:
    """Write beside the file, then rename over it. A link keeps leading to its file, and a file its permissions."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
