"""Named presets: the public ones that come with the pack, and files of the user's own.

A preset file is JSON, ``{"SDXL, SD1.5": {"name": "weights text" or {"weights", "about", "also"}}}``, where
``*`` stands for every family and ``//``, ``#`` and ``/* */`` comments are fine; or a ``.txt`` with lines
``NAME:1,0,0,...`` as sd-webui-lora-block-weight and Inspire have them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from . import grammar
from .builtin import FAMILIES, builtin_layout
from .commented_json import without_comments
from .errors import BlockTextError
from .text import begins_a_call, parse
from .vectors import forms, looks_like_vector

BUILTIN = Path(__file__).with_name("presets")
ANY = "*"
# The most bytes that a file of presets may have.
MAX_FILE = 1_000_000
# The most presets in one file.
MAX_PRESETS = 2000
MAX_NAME = 100
# What inputs of nodes have for "nothing chosen", and what a program's null becomes.
_NO_PRESET = ("none", "null", "auto", "")

# Where a preset stands, in words for a message; worked out only when there is one.
Place = Callable[[], str]


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


@dataclass(frozen=True, eq=False)
class PresetFile:
    """The presets of one file in order, each with its place. Their weights have not been read yet."""

    presets: tuple[tuple[Preset, Place], ...]

    def checked(self, family: str | None) -> tuple[Preset, ...]:
        """The presets for a family, None for those that fit every family. Raises BlockTextError, with the place, for a text that cannot
        be read there."""
        found = [(preset, place) for preset, place in self.presets if preset.fits(family)]
        for preset, place in found:
            check(preset, place, (family,))
        return tuple(preset for preset, _ in found)


@lru_cache(maxsize=1)
def builtin_presets() -> tuple[Preset, ...]:
    """The presets of the pack, general ones first. Their texts are checked by the tests, not at every start of ComfyUI."""
    files = sorted(BUILTIN.glob("*.json"), key=lambda path: (path.stem not in ("common", "transformers"), path.stem))
    return tuple(preset for path in files for preset, _ in read_preset_file(path).presets)


def load_presets(family: str | None, user_files: Iterable[Path | str] = ()) -> dict[str, Preset]:
    """Presets for a family by name: the pack's, then the user's, which win. Files that do not exist are
    empty.

    Raises BlockTextError, naming file and line, for a file that cannot be read.
    """
    own = [
        preset
        for path in map(Path, user_files)
        if path.exists()
        for preset in read_preset_file(path, True).checked(family)
    ]
    return with_builtin(family, own)


def with_builtin(family: str | None, own: Iterable[Preset]) -> dict[str, Preset]:
    """By name: the pack's presets for a family, and over them a person's own."""
    return {preset.name: preset for preset in (*_builtin_for(family), *own)}


@lru_cache(maxsize=64)
def _builtin_for(family: str | None) -> tuple[Preset, ...]:
    return tuple(preset for preset in builtin_presets() if preset.fits(family))


def texts(presets: dict[str, Preset]) -> dict[str, str]:
    """Every name, other names included, with its text: what ``parse(..., presets=...)`` takes."""
    named = {other: preset.weights for preset in presets.values() for other in preset.also}
    return {**named, **{name: preset.weights for name, preset in presets.items()}}


def read_presets(path: Path | str, user: bool = False, check_texts: bool = True) -> list[Preset]:
    """The presets of one file, whose weights every family of theirs must be able to read unless ``check_texts`` is off.

    Raises BlockTextError with the file's name and the line.
    """
    found = read_preset_file(path, user).presets
    for preset, place in found if check_texts else ():
        check(preset, place, preset.families or (None,))
    return [preset for preset, _ in found]


def read_preset_file(path: Path | str, user: bool = False) -> PresetFile:
    """The presets of one file, as far as they can be told without reading their weights.

    Raises BlockTextError with the file's name and the line.
    """
    path = Path(path)
    read = _read_lines if path.suffix.lower() == ".txt" else _read_json
    found = tuple(read(path, read_source(path), user))
    if len(found) > MAX_PRESETS:
        raise BlockTextError(f"{path.name} holds {len(found)} presets; {MAX_PRESETS} are read at most. Take some out.")
    return PresetFile(found)


def read_source(path: Path) -> str:
    """The text of a preset file. Raises BlockTextError."""
    try:
        with open(path, "rb") as file:
            packed = file.read(MAX_FILE + 1)
        if len(packed) > MAX_FILE:
            raise BlockTextError(
                f"{path.name} is larger than {MAX_FILE // 1_000_000} MB, which is more than presets need."
            )
        return packed.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise BlockTextError(f"{path.name}: this is not a text file in UTF-8.") from None
    except OSError as error:
        raise BlockTextError(f"{path.name} cannot be read: {error.strerror or error}.") from None


class Pairs(list):
    """The (key, value) pairs of one object of a JSON text, those included whose key comes again."""


def read_sections(path: Path, plain: str) -> Pairs:
    """The sections of a preset file, (title, Pairs of its presets). Raises BlockTextError with the line.

    plain: without comments.
    """
    try:
        data = json.loads(plain, object_pairs_hook=Pairs) if plain.strip() else Pairs()
    except json.JSONDecodeError as error:
        raise BlockTextError(f"{path.name}, line {error.lineno}: {error.msg} (column {error.colno}).") from None
    except (RecursionError, ValueError):
        raise BlockTextError(f"{path.name}, line 1: this is nested too deeply for presets.") from None
    if not isinstance(data, Pairs):
        raise BlockTextError(f'{path.name}, line 1: a preset file looks like {{"SDXL": {{"my preset": "IN*=0"}}}}.')
    for title, entries in data:
        if not isinstance(entries, Pairs):
            raise BlockTextError(f"{path.name}, line {_line_of(plain, title)}: {_cut(title)} is not a list of presets.")
    return data


def _read_json(path: Path, source: str, user: bool) -> Iterator[tuple[Preset, Place]]:
    """Each preset and the place where it stands. Raises BlockTextError."""
    plain, _ = without_comments(source)
    for title, entries in read_sections(path, plain):
        families = read_title(title, lambda title=title: f"{path.name}, line {_line_of(plain, title)}")
        for name, entry in entries:
            place = partial(_place, path.name, plain, title, name)
            yield read_entry(name, entry, families, user, place), place


def _place(file: str, plain: str, title: str, name: str) -> str:
    return f"{file}, line {_line_of(plain, name, after=title)}"


def read_title(title: str, place: Place) -> tuple[str, ...]:
    """The families of a section; none for ``*``. Raises BlockTextError."""
    names = tuple(name.strip() for name in title.split(","))
    if names == (ANY,):
        return ()
    unknown = [name for name in names if name not in FAMILIES]
    if unknown:
        raise BlockTextError(
            f"{place()}: {_cut(unknown[0])} is no model family. Families: {', '.join((ANY, *FAMILIES))}."
        )
    return names


def read_entry(name: str, entry: object, families: tuple[str, ...], user: bool, place: Place) -> Preset:
    """One preset as a file has it; its weights are not read yet. Raises BlockTextError."""
    entry = {"weights": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Pairs) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("weights"), str):
        raise BlockTextError(f'{place()}: the preset {_cut(name)} is neither a text nor {{"weights": "..."}}.')
    also, about = entry.get("also", []), entry.get("about", "")
    unknown = entry.keys() - {"weights", "also", "about"}
    if unknown or not isinstance(about, str) or not isinstance(also, list) or not all(isinstance(n, str) for n in also):
        raise BlockTextError(
            f'{place()}: the preset {_cut(name)} takes "weights", "about" (text) and "also" (list of names).'
        )
    for spelling in (name, *also):
        if problem := name_problem(spelling.strip()):
            raise BlockTextError(f"{place()}: {problem}")
    return Preset(name.strip(), entry["weights"].strip(), about, tuple(n.strip() for n in also), families, user)


def name_problem(name: str) -> str:
    """Why a preset cannot be called so, as a sentence; empty for a good name. A name that is also a weights text would change what that
    text means wherever it stands."""
    if not name:
        return "a preset needs a name."
    if len(name) > MAX_NAME:
        return f"a preset needs a name of at most {MAX_NAME} letters."
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return f"the name {_cut(name)} holds characters that cannot be shown; choose another one."
    if "=" in name or ";" in name or name[0] in "{%<" or looks_like_vector(name):
        return f"the name {_cut(name)} reads as block weights; choose one without = and ; that is no list of numbers."
    if "*" in name or begins_a_call(name):
        return f"the name {_cut(name)} reads as block weights; choose one without * and without invert(, seed(, even( and odd(."
    # The pack's own NONE turns every block off.
    if name.strip("()[]<> ").lower() in _NO_PRESET and name != "NONE":
        return f"the name {_cut(name)} stands for no preset at all; choose another one."
    return ""


def check(preset: Preset, place: Place, families: Iterable[str | None]) -> None:
    """Whether these families can read a preset's weights, None standing for no family in particular. Raises BlockTextError."""
    try:
        for family in families:
            if family is None or not preset.families:
                grammar.parse_rules(preset.weights)
            else:
                parse(preset.weights, builtin_layout(family))
    except BlockTextError as error:
        raise BlockTextError(f"{place()}: the preset {preset.name!r}: {error}") from None


_COMMENT = re.compile(r"(?:^|\s)(?:#|//)")


def _read_lines(path: Path, source: str, user: bool) -> Iterator[tuple[Preset, Place]]:
    """``NAME:v,v,...``; comments and Inspire's ``@`` lines (tests for its XY plot) are passed over."""
    for number, line in enumerate(source.splitlines(), 1):
        comment = _COMMENT.search(line)
        line = (line[: comment.start()] if comment else line).strip()
        if not line or line.startswith("@"):
            continue
        name, separator, vector = (part.strip() for part in line.partition(":"))
        place = partial("{}, line {}".format, path.name, number)
        if not separator or not name or not looks_like_vector(vector):
            raise BlockTextError(f"{place()}: {line[:60]!r} is not of the form NAME:1,0,0,....")
        if problem := name_problem(name):
            raise BlockTextError(f"{place()}: {problem}")
        count = vector.count(",") + 1
        families = _families_of_length().get(count, ())
        if not families:
            raise BlockTextError(f"{place()}: no model takes a vector of {count} entries ({name}).")
        yield Preset(name, f"{name.replace(',', ' ')}:{vector}", families=families, user=user), place


@lru_cache(maxsize=1)
def _families_of_length() -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for family in FAMILIES:
        for length in forms(builtin_layout(family)):
            found[length] = (*found.get(length, ()), family)
    return found


def _line_of(source: str, name: str, after: str = "") -> int:
    """The line where a name stands, looked for behind another."""
    start = max(source.find(json.dumps(after, ensure_ascii=False)), 0) if after else 0
    at = source.find(json.dumps(name, ensure_ascii=False), start)
    at = at if at >= 0 else source.find(json.dumps(name), start)
    return source.count("\n", 0, max(at, 0)) + 1


def _cut(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
