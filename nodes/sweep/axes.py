"""An axis of a sweep: what changes along it, and its values, from the kind that was chosen and the text beside it.

A text may begin with the LoRA that it is about: ``row 2: 0-1[6]`` (by its number in the stack), ``row ink: 0.4, 0.8`` (by its name), or
``all rows: 0.5, 1`` (every LoRA, its strengths times the value). Where the stack has one LoRA that is not needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...lora_math import schedule
from ...lora_math.blocks.selector import Selector, parse_selector
from ...lora_math.errors import StrataError
from ...lora_math.numbers import show_number
from ...lora_math.rows_text import is_in_folder
from . import values

NONE = "none"
STRENGTHS = ("strength", "strength model", "strength clip")
LORA, WITHOUT, ONLY, WEIGHT, TIME = "LoRA file", "without block", "only block", "block weight", "strength over time"
SEED, PROMPT, CFG, STEPS = "seed", "prompt", "cfg", "steps"
KINDS = (NONE, *STRENGTHS, LORA, WITHOUT, ONLY, WEIGHT, TIME, SEED, PROMPT, CFG, STEPS)
# Those that change a LoRA of the stack.
OF_ROWS = (*STRENGTHS, LORA, WITHOUT, ONLY, WEIGHT, TIME)
NUMERIC = (*STRENGTHS, WEIGHT, SEED, CFG, STEPS)
MAX_STEPS = 10_000
MAX_STRENGTH = 100.0
EPOCHS = "epochs of "

# The target ends at the first colon; no other part of these expressions can match one.
_ROW = re.compile(r"\s*row\s+([^:\n]{1,300}):\s*", re.IGNORECASE)
_ALL = re.compile(r"\s*all\s+rows\s*:\s*", re.IGNORECASE)
# How trainers number what they save on the way: name-000004, name_e10, name-step00001000, name_000000250.
_NUMBERED = re.compile(r"(.*[^-_ 0-9])[-_ ]+(?:epochs?|ep|e|steps?|s)?[-_ ]?([0-9]{1,12})", re.IGNORECASE)


@dataclass(frozen=True)
class Axis:
    """kind: one of KINDS but "none". rows: the places in the stack that it changes, empty where it changes none; factor: whether a
    strength multiplies that of the row. values: numbers, names, or texts; for a prompt (what is replaced, what by). block: of
    "block weight". labels: one for each value; name: of the axis."""

    kind: str
    values: tuple
    labels: tuple[str, ...]
    rows: tuple[int, ...] = ()
    factor: bool = False
    block: str = ""

    @property
    def name(self) -> str:
        if self.kind == WEIGHT:
            return f"weight of {self.block}"
        return f"{self.kind} times" if self.factor else self.kind

    @property
    def is_numeric(self) -> bool:
        return self.kind in NUMERIC


@dataclass(frozen=True)
class Known:
    """What the values of an axis may name. stack: the names of its LoRAs; files: those that ComfyUI lists; blocks: (place in the stack)
    -> the blocks that its LoRA changes."""

    stack: Sequence[str]
    files: Callable[[], Sequence[str]]
    blocks: Callable[[int], Sequence[str]]


def read_axis(letter: str, kind: str, text: str, known: Known) -> Axis | None:
    """The axis, None for "none". letter: "x", "y" or "z", or the name of another input, for errors. Raises StrataError."""
    if kind == NONE:
        return None
    what = f"{letter}_values" if len(letter) == 1 else letter
    if kind not in OF_ROWS:
        return _plain(kind, text, what)
    rows, rest = _rows(kind, text, what, known)
    if kind in STRENGTHS:
        found = _checked(values.numbers(rest, what), what)
        every = _ALL.match(text) is not None
        return Axis(kind, tuple(found), tuple(map(show_number, found)), rows, every)
    if kind == WEIGHT:
        block, colon, numbers = rest.rpartition(":")
        if not colon or not block.strip():
            raise StrataError(f"{what}: write the blocks and their weights, such as D*: 0-1[5].")
        selector = _selector(block.strip(), what)
        found = _checked(values.numbers(numbers, what), what)
        return Axis(kind, tuple(found), tuple(map(show_number, found)), rows, block=str(selector))
    entries = _some(values.entries(rest), what, kind)
    if kind == TIME:
        entries = _curves(entries)
        read = [str(schedule.parse(entry)) for entry in entries]
        return Axis(kind, tuple(read), tuple(entries), rows)
    if kind == LORA:
        names = _limited([name for entry in entries for name in _files(entry, known.files, what)], what)
        return Axis(kind, tuple(names), tuple(shortest(names)), rows)
    blocks = _limited([block for entry in entries for block in _blocks(entry, rows, known, what)], what)
    return Axis(kind, tuple(blocks), tuple(blocks), rows)


def _plain(kind: str, text: str, what: str) -> Axis:
    if kind == PROMPT:
        entries = _some(values.entries(text), what, kind)
        if not entries[0]:
            raise StrataError(f"{what}: the first entry is what is looked for in the prompt. It must not be empty.")
        pairs = tuple((entries[0], entry) for entry in dict.fromkeys(entries))
        return Axis(kind, pairs, tuple(entry or "(nothing)" for _, entry in pairs))
    whole = kind in (SEED, STEPS)
    found = values.numbers(text, what, whole)
    if kind == STEPS and not all(1 <= each <= MAX_STEPS for each in found):
        raise StrataError(f"{what}: steps go from 1 to {MAX_STEPS}.")
    if kind == CFG and not all(0 <= each <= 1000 for each in found):
        raise StrataError(f"{what}: cfg goes from 0 to 1000.")
    return Axis(kind, tuple(found), tuple(str(each) if whole else show_number(each) for each in found))


def _rows(kind: str, text: str, what: str, known: Known) -> tuple[tuple[int, ...], str]:
    """(places in the stack, the text behind the target)."""
    if not known.stack:
        raise StrataError(f"{what}: there is no LoRA to change. Choose one in lora_name, or connect a LORA_STACK.")
    if (match := _ALL.match(text)) is not None:
        if kind not in STRENGTHS and kind not in (WITHOUT, ONLY, WEIGHT, TIME):
            raise StrataError(f"{what}: all rows cannot be one file. Write row 1: and the files.")
        return tuple(range(len(known.stack))), text[match.end() :]
    if (match := _ROW.match(text)) is not None:
        return (_row(match[1].strip(), what, known.stack),), text[match.end() :]
    if len(known.stack) > 1:
        listed = ", ".join(f"{at}: {shortest([name])[0]}" for at, name in enumerate(known.stack[:6], 1))
        raise StrataError(
            f"{what} does not say which LoRA of the stack it is about ({listed}). Begin it with row 1: or, for strengths, all rows:"
        )
    return (0,), text


def _row(wanted: str, what: str, stack: Sequence[str]) -> int:
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 9:
        if not 1 <= int(wanted) <= len(stack):
            raise StrataError(f"{what}: there is no row {wanted}; the stack has {len(stack)}.")
        return int(wanted) - 1
    plain = _stem(wanted).lower()
    hits = [at for at, name in enumerate(stack) if plain in (_stem(name).lower(), _stem(name).lower().split("/")[-1])]
    if len(hits) != 1:
        reason = "is no LoRA of the stack" if not hits else "could be any of several rows: write its number"
        raise StrataError(f"{what}: '{wanted[:80]}' {reason}.")
    return hits[0]


def _checked(found: Sequence[float], what: str) -> Sequence[float]:
    far = next((each for each in found if abs(each) > MAX_STRENGTH), None)
    if far is not None:
        raise StrataError(f"{what}: {far:g} is far beyond what any LoRA can have. Use numbers from -100 to 100.")
    return found


def _some(entries: list[str], what: str, kind: str) -> list[str]:
    if not entries:
        raise StrataError(f"{what} is empty. Write the values of the axis '{kind}', with commas between them.")
    return entries


def _limited(found: Sequence[str], what: str) -> list[str]:
    unique = list(dict.fromkeys(found))
    if len(unique) > values.MAX_VALUES:
        raise StrataError(f"{what} is {len(unique)} values; the most are {values.MAX_VALUES}.")
    return unique


def _curves(entries: Sequence[str]) -> list[str]:
    """Points that stand behind each other with commas between them are one curve: ``0@0, 1@0.5``. What has a comma in it stood in quotes
    or on a line of its own and is whole; ``smooth:`` begins another one."""
    found: list[str] = []
    goes_on = False
    for entry in entries:
        is_point = "@" in entry and "," not in entry
        if goes_on and is_point and ":" not in entry:
            found[-1] += f", {entry}"
        else:
            found.append(entry)
        goes_on = is_point
    return found


def _files(entry: str, files: Callable[[], Sequence[str]], what: str) -> Sequence[str]:
    if entry.rstrip().endswith("*"):
        found = sorted((name for name in files() if is_in_folder(name, entry.strip())), key=_natural)
        if not found:
            raise StrataError(f"{what}: '{entry[:80]}' finds no LoRA files. Press R to refresh, or check the folder.")
        return found
    if entry.lower().startswith(EPOCHS):
        return epochs_of(entry[len(EPOCHS) :].strip(), files(), what)
    return [entry]


def epochs_of(name: str, files: Sequence[str], what: str) -> list[str]:
    """The files that one training saved on the way, in the order of their numbers, the one without a number last: files of one folder
    whose names differ in a number at their end."""
    asked = _stem(name).lower()
    listed = [file for file in files if asked in (_stem(file).lower(), _stem(file).lower().split("/")[-1])]
    wanted = {_training(file) for file in listed} or {_training(f"{name}.safetensors")}
    found = sorted((file for file in files if _training(file) in wanted), key=_epoch)
    if not found:
        raise StrataError(f"{what}: no LoRA file is called '{name[:80]}', with or without a number at its end.")
    return found


def _training(file: str) -> str:
    stem = _stem(file).lower()
    match = _NUMBERED.fullmatch(stem)
    return match[1] if match else stem


def _epoch(file: str) -> tuple:
    match = _NUMBERED.fullmatch(_stem(file))
    return (match is None, int(match[2]) if match else 0, file)


def _blocks(entry: str, rows: Sequence[int], known: Known, what: str) -> Sequence[str]:
    if entry.lower() not in ("all", "groups"):
        return [str(_selector(entry, what))]
    names = [name for row in rows for name in known.blocks(row)]
    if not names:
        raise StrataError(f"{what}: the LoRA changes no block of this model, so there is none to leave out.")
    if entry.lower() == "all":
        return names
    groups = [_group(parse_selector(name)) for name in names]
    return list(dict.fromkeys(groups))


def _group(selector: Selector) -> str:
    return f"{selector.name}*" if selector.kind == "group" else str(selector)


def _selector(text: str, what: str) -> Selector:
    try:
        return parse_selector(text)
    except StrataError as problem:
        raise StrataError(f"{what}: {problem}") from None


def shortest(names: Sequence[str]) -> list[str]:
    """What to call files: their names without folder and ending where that tells them apart, else with the folder."""
    stems = [_stem(name) for name in names]
    bare = [stem.split("/")[-1] for stem in stems]
    return [name if bare.count(name) == 1 else stem for name, stem in zip(bare, stems, strict=True)]


def _stem(name: str) -> str:
    return os.path.splitext(name.replace("\\", "/"))[0]


def _natural(name: str) -> list:
    """Sorts 10 behind 9."""
    return [
        (at % 2 == 1, int(part) if at % 2 else 0, part)
        for at, part in enumerate(re.split("([0-9]{1,18})", name.lower()))
    ]
