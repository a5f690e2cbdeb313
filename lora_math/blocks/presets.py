"""Named presets: the public ones that come with the pack, and files of the user's own.

A preset file is JSON, ``{"SDXL, SD1.5": {"name": "weights text" or {"weights", "about", "also"}}}``, where
``*`` stands for every family and ``//``, ``#`` and ``/* */`` comments are fine; or a ``.txt`` with lines
``NAME:1,0,0,...`` as sd-webui-lora-block-weight and Inspire have them.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from . import grammar
from .builtin import FAMILIES, builtin_layout
from .errors import BlockTextError
from .text import parse
from .vectors import forms, looks_like_vector

BUILTIN = Path(__file__).with_name("presets")
ANY = "*"


@dataclass(frozen=True)
class Preset:
    """A name and its weights text. ``also``: other names that it has. ``families``: empty means all."""

    name: str
    weights: str
    about: str = ""
    also: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    user: bool = False

    def fits(self, family: str | None) -> bool:
        return not self.families or family in self.families


@lru_cache(maxsize=1)
def builtin_presets() -> tuple[Preset, ...]:
    """The presets of the pack, general ones first. Their texts are checked by the tests, not at every start of ComfyUI."""
    files = sorted(BUILTIN.glob("*.json"), key=lambda path: (path.stem not in ("common", "transformers"), path.stem))
    return tuple(preset for path in files for preset in read_presets(path, check=False))


def load_presets(family: str | None, user_files: Iterable[Path | str] = ()) -> dict[str, Preset]:
    """Presets for a family by name: the pack's, then the user's, which win. Files that do not exist are
    empty.

    Raises BlockTextError, naming file and line, for a file that cannot be read.
    """
    presets = [preset for preset in builtin_presets() if preset.fits(family)]
    for path in map(Path, user_files):
        if path.exists():
            presets += [preset for preset in read_presets(path, user=True) if preset.fits(family)]
    return {preset.name: preset for preset in presets}


def texts(presets: dict[str, Preset]) -> dict[str, str]:
    """Every name, other names included, with its text: what ``parse(..., presets=...)`` takes."""
    named = {other: preset.weights for preset in presets.values() for other in preset.also}
    return {**named, **{name: preset.weights for name, preset in presets.items()}}


def read_presets(path: Path | str, user: bool = False, check: bool = True) -> list[Preset]:
    """The presets of one file, whose weights every family of theirs must be able to read unless ``check`` is off.

    Raises BlockTextError with the file's name and the line.
    """
    path = Path(path)
    try:
        source = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BlockTextError(f"{path.name}: this is not a text file in UTF-8.") from None
    except OSError as error:
        raise BlockTextError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    read = _read_lines if path.suffix.lower() == ".txt" else _read_json
    found = list(read(path, source, user))
    for preset, place in found if check else ():
        _check(preset, place)
    return [preset for preset, _ in found]


def _read_json(path: Path, source: str, user: bool) -> Iterator[tuple[Preset, str]]:
    """Each preset and the place where it stands, for messages."""
    plain = _without_comments(source)
    try:
        data = json.loads(plain) if plain.strip() else {}
    except json.JSONDecodeError as error:
        raise BlockTextError(f"{path.name}, line {error.lineno}: {error.msg} (column {error.colno}).") from None
    except (RecursionError, ValueError):
        raise BlockTextError(f"{path.name}, line 1: this is nested too deeply for presets.") from None
    if not isinstance(data, dict):
        raise BlockTextError(f'{path.name}, line 1: a preset file looks like {{"SDXL": {{"my preset": "IN*=0"}}}}.')
    for title, entries in data.items():
        families = _families(title, f"{path.name}, line {_line_of(plain, title)}")
        if not isinstance(entries, dict):
            raise BlockTextError(f"{path.name}, line {_line_of(plain, title)}: {title!r} is not a list of presets.")
        for name, entry in entries.items():
            place = f"{path.name}, line {_line_of(plain, name, after=title)}"
            yield _preset(name, entry, families, user, place), place


def _families(title: str, place: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in title.split(","))
    if names == (ANY,):
        return ()
    unknown = [name for name in names if name not in FAMILIES]
    if unknown:
        raise BlockTextError(f"{place}: {unknown[0]!r} is no model family. Families: {', '.join((ANY, *FAMILIES))}.")
    return names


def _preset(name: str, entry: object, families: tuple[str, ...], user: bool, place: str) -> Preset:
    entry = {"weights": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("weights"), str):
        raise BlockTextError(f'{place}: the preset {name!r} is neither a text nor {{"weights": "..."}}.')
    also, about = entry.get("also", []), entry.get("about", "")
    unknown = entry.keys() - {"weights", "also", "about"}
    if unknown or not isinstance(about, str) or not isinstance(also, list) or not all(isinstance(n, str) for n in also):
        raise BlockTextError(
            f'{place}: the preset {name!r} takes "weights", "about" (text) and "also" (list of names).'
        )
    if not name.strip():
        raise BlockTextError(f"{place}: a preset needs a name.")
    return Preset(name.strip(), entry["weights"].strip(), about, tuple(also), families, user)


def _check(preset: Preset, place: str) -> None:
    try:
        for family in preset.families:
            parse(preset.weights, builtin_layout(family))
        if not preset.families:
            grammar.parse_rules(preset.weights)
    except BlockTextError as error:
        raise BlockTextError(f"{place}: the preset {preset.name!r}: {error}") from None


def _read_lines(path: Path, source: str, user: bool) -> Iterator[tuple[Preset, str]]:
    """``NAME:v,v,...``; comments and Inspire's ``@`` lines (tests for its XY plot) are passed over."""
    for number, line in enumerate(source.splitlines(), 1):
        line = re.split(r"(?:^|\s)(?:#|//)", line, maxsplit=1)[0].strip()
        if not line or line.startswith("@"):
            continue
        name, separator, vector = (part.strip() for part in line.partition(":"))
        if not separator or not name or not looks_like_vector(vector):
            raise BlockTextError(f"{path.name}, line {number}: {line[:60]!r} is not of the form NAME:1,0,0,....")
        families = tuple(f for f in FAMILIES if len(vector.split(",")) in forms(builtin_layout(f)))
        if not families:
            count = len(vector.split(","))
            raise BlockTextError(f"{path.name}, line {number}: no model takes a vector of {count} entries ({name}).")
        preset = Preset(name, f"{name.replace(',', ' ')}:{vector}", families=families, user=user)
        yield preset, f"{path.name}, line {number}"


_TOKEN = re.compile(
    r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/\*.*?\*/|,(?=(?:\s|//[^\n]*|#[^\n]*|/\*.*?\*/)*[}\]])', re.DOTALL
)


def _without_comments(source: str) -> str:
    """JSON proper, with comments and trailing commas blanked: lines and columns stay where they were."""
    return _TOKEN.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), source)


def _line_of(source: str, name: str, after: str = "") -> int:
    """The line where a name stands, looked for behind another."""
    start = max(source.find(json.dumps(after, ensure_ascii=False)), 0) if after else 0
    at = source.find(json.dumps(name, ensure_ascii=False), start)
    at = at if at >= 0 else source.find(json.dumps(name), start)
    return source.count("\n", 0, max(at, 0)) + 1


def save_preset(path: Path | str, family: str | None, name: str, weights: str, about: str = "") -> Preset:
    """Add or replace a preset in a user file (JSON), for one family or, with None, for all.

    The file is replaced in one step, so a crash leaves the old one; if it had comments, a ``.bak`` keeps
    them. Raises BlockTextError for a text that cannot be read, or a file that is broken or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise BlockTextError(f"{path.name}: presets are saved to a .json file.")
    title = family or ANY
    entry = {"weights": weights, "about": about} if about else weights
    preset = _preset(name, entry, _families(title, path.name), True, path.name)
    _check(preset, path.name)
    try:
        source = path.read_text(encoding="utf-8-sig") if path.exists() else "{}"
        for kept, place in _read_json(path, source, True):
            _check(kept, place)
        data = json.loads(_without_comments(source) or "{}")
        data.setdefault(title, {})[preset.name] = entry
        path.parent.mkdir(parents=True, exist_ok=True)
        if _has_comments(source):
            _write(path.with_suffix(".json.bak"), source)
        _write(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    except UnicodeDecodeError:
        raise BlockTextError(f"{path.name}: this is not a text file in UTF-8.") from None
    except OSError as error:
        raise BlockTextError(f"{path.name} cannot be written: {error.strerror or error}.") from None
    return preset


def delete_preset(path: Path | str, name: str) -> bool:
    """Take a preset out of a user file (JSON), under every family. False if it has none of that name. Raises BlockTextError."""
    path = Path(path)
    try:
        source = path.read_text(encoding="utf-8-sig") if path.exists() else "{}"
        list(_read_json(path, source, True))
        data = json.loads(_without_comments(source) or "{}")
        found = [entries.pop(name) for entries in data.values() if name in entries]
        if found:
            if _has_comments(source):
                _write(path.with_suffix(".json.bak"), source)
            _write(path, json.dumps({k: v for k, v in data.items() if v}, indent=2, ensure_ascii=False) + "\n")
    except UnicodeDecodeError:
        raise BlockTextError(f"{path.name}: this is not a text file in UTF-8.") from None
    except OSError as error:
        raise BlockTextError(f"{path.name} cannot be written: {error.strerror or error}.") from None
    return bool(found)


def _has_comments(source: str) -> bool:
    return any(match[0][0] in "/#" for match in _TOKEN.finditer(source))


def _write(path: Path, text: str) -> None:
    """Write beside the file, then rename over it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", text=False)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
