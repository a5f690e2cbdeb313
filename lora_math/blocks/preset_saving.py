"""Presets into a file of the user's own and out of it. Everything else in the file stays, comments in a ``.bak`` beside it."""

from __future__ import annotations

import json
import os
import stat
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

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

Sections = dict[str, dict[str, object]]


def save_preset(path: Path | str, family: str | None, name: str, weights: str, about: str = "") -> Preset:
    """Add or replace a preset in a user file (JSON), for one family or, with None, for all.

    The file is replaced in one step, so a crash leaves the old one; if it had comments, a ``.bak`` keeps
    them. Raises BlockTextError for a text that cannot be read, or a file that is broken or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise BlockTextError(f"{path.name}: presets are saved to a .json file.")
    title, place = family or ANY, lambda: path.name
    entry = {"weights": weights, "about": about} if about else weights
    preset = read_entry(name, entry, read_title(title, place), True, place)
    check(preset, place, preset.families or (None,))
    _refuse_halves(path, weights, about)

    def put(sections: Sections) -> bool:
        section = sections.setdefault(title, {})
        spelled = next((known for known in section if known.strip() == preset.name), preset.name)
        section[spelled] = entry
        return True

    _change(path, put)
    return preset


def delete_preset(path: Path | str, family: str | None, name: str) -> bool:
    """Take a preset out of a user file (JSON): the one that this family sees under the name, with None the one for all families.

    One that it shares with other families stays theirs. False if there is none of that name. Raises BlockTextError.
    """
    path, name = Path(path), name.strip()

    def take(sections: Sections) -> bool:
        # Of several the last one counts.
        for title in reversed(sections):
            families = read_title(title, lambda: path.name)
            if families and family not in families:
                continue
            spelled = [known for known in sections[title] if known.strip() == name]
            if not spelled:
                continue
            entries = [(known, sections[title].pop(known)) for known in spelled]
            others = ", ".join(other for other in families if other != family)
            if others:
                sections.setdefault(others, {}).update(entries)
            if not sections[title]:
                del sections[title]
            return True
        return False

    return path.exists() and _change(path, take)


def _change(path: Path, change: Callable[[Sections], bool]) -> bool:
    """Whether ``change`` changed anything; the file is written then. Raises BlockTextError."""
    with _lock:
        try:
            source = read_source(path) if path.exists() else "{}"
            plain, commented = without_comments(source)
            sections = _sections(path, plain)
            if not change(sections):
                return False
            if sum(map(len, sections.values())) > MAX_PRESETS:
                raise BlockTextError(f"{path.name} holds {MAX_PRESETS} presets already. Delete some.")
            text = json.dumps(sections, indent=2, ensure_ascii=False) + "\n"
            # The file has a name that only JSON's escapes can write.
            if not _has_whole_characters(text):
                text = json.dumps(sections, indent=2) + "\n"
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


def _sections(path: Path, plain: str) -> Sections:
    """The file as it is, but a title or a name that comes twice once: of two presets of one name the last counts, as when it is read."""
    sections: Sections = {}
    for title, entries in read_sections(path, plain):
        families = read_title(title, lambda: path.name)
        for name, entry in entries:
            read_entry(name, entry, families, True, lambda: path.name)
        sections.setdefault(title, {}).update(
            (name, dict(entry) if isinstance(entry, Pairs) else entry) for name, entry in entries
        )
    return sections


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
