"""The values of an axis as people write them: A1111's grammar of its X/Y/Z plot.

    0.4, 0.8, 1            a list
    1-5                    every whole number from 1 to 5
    0-1(+0.2)              from 0 to 1 in steps of 0.2; 10-5(-2.5) runs downwards
    0-1[6]                 six numbers from 0 to 1, evenly
    ink, "a, b", style/*   names; quotes around one that holds a comma, doubled quotes inside
    a, b                   on several lines: each line is one value, whatever commas it holds

Counted in decimals, so that 0-1(+0.1) has 0.3 and not 0.30000000000000004.
"""

from __future__ import annotations

import re
from decimal import Decimal

from ...lora_math.errors import StrataError
from ...lora_math.numbers import NUMBER, is_number

# The most values of one axis, and the most letters that they are written in.
MAX_VALUES = 1000
MAX_TEXT = 100_000
MAX_WHOLE = 2**64 - 1
_RANGE = re.compile(
    rf"\s*({NUMBER})\s*-\s*({NUMBER})\s*(?:\(\s*([+-][0-9.eE+-]{{1,40}})\s*\)|\[\s*([0-9]{{1,9}})\s*\])?\s*"
)
EXAMPLE = "Write for example 0.4, 0.8 or 0-1(+0.2) or 0-1[6]."


def entries(text: str) -> list[str]:
    """The single entries, without quotes and blank ones. Raises StrataError for a quote that nothing closes."""
    if len(text) > MAX_TEXT:
        raise StrataError(f"The values of an axis have at most {MAX_TEXT} letters.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return [_unquoted(line) for line in lines]
    return [entry for line in lines for entry in _at_commas(line)]


def _unquoted(line: str) -> str:
    if len(line) >= 2 and line[0] == line[-1] == '"':
        return line[1:-1].replace('""', '"')
    return line


def _at_commas(line: str) -> list[str]:
    """Cut at commas, but for those in quotes or within ``{}``, as in the blocks S{7,12}."""
    found, letters, quoted, was_quoted, started, depth, at = [], [], False, False, False, 0, 0
    while at <= len(line):
        letter = line[at] if at < len(line) else ","
        last = at == len(line)
        if quoted:
            if last:
                raise StrataError(f"The quote in {_shown(line)} is not closed.")
            if letter == '"' and line[at + 1 : at + 2] == '"':
                letters.append('"')
                at += 1
            elif letter == '"':
                quoted = False
            else:
                letters.append(letter)
        elif letter == '"' and not started:
            quoted = was_quoted = started = True
            letters = []
        elif letter == "," and (depth == 0 or last):
            entry = "".join(letters)
            entry = entry if was_quoted else entry.strip()
            if entry or was_quoted:
                found.append(entry)
            letters, was_quoted, started, depth = [], False, False, 0
        # Blanks behind a closing quote are none of the name's.
        elif not (was_quoted and letter.isspace()):
            depth += (letter == "{") - (letter == "}" and depth > 0)
            started = started or not letter.isspace()
            letters.append(letter)
        at += 1
    return found


def numbers(text: str, what: str, whole: bool = False) -> list[float] | list[int]:
    """The numbers in order, each only once. ``what``: the axis, for the errors; ``whole``: whole numbers from 0 to 2**64 - 1.

    Raises StrataError, showing the entry, for whatever is no number or range.
    """
    found: list[Decimal] = []
    for entry in entries(text):
        found += _range(entry, what, whole)
        if len(found) > MAX_VALUES:
            raise StrataError(f"{what} has more than {MAX_VALUES} values with {_shown(entry)}. Use larger steps.")
    if not found:
        raise StrataError(f"{what} has no values. {EXAMPLE}")
    unique = list(dict.fromkeys(found))
    return [int(each) for each in unique] if whole else [float(each) + 0.0 for each in unique]


def _range(entry: str, what: str, whole: bool) -> list[Decimal]:
    if is_number(entry):
        return [_number(entry, entry, what, whole)]
    match = _RANGE.fullmatch(entry)
    if match is None:
        raise StrataError(f"{what}: {_shown(entry)} is no number and no range. {EXAMPLE}")
    start, end = (_number(match[part], entry, what, whole) for part in (1, 2))
    if match[4] is not None:
        return _counted(start, end, int(match[4]), entry, what, whole)
    step = Decimal(1 if end >= start else -1)
    if match[3] is not None:
        if not is_number(match[3]):
            raise StrataError(f"{what}: {_shown(entry)} has no step that is a number. {EXAMPLE}")
        step = _number(match[3], entry, what, whole, signed=True)
    if step == 0 or (end - start) * step < 0:
        raise StrataError(f"{what}: {_shown(entry)} never comes to its end by steps of {step}. {EXAMPLE}")
    count = (end - start) / step
    if count >= MAX_VALUES:
        raise StrataError(f"{what}: {_shown(entry)} is more than {MAX_VALUES} values. Use larger steps.")
    return [start + step * at for at in range(int(count) + 1)]


def _counted(start: Decimal, end: Decimal, count: int, entry: str, what: str, whole: bool) -> list[Decimal]:
    """Evenly from start to end. Whole numbers are cut off, as A1111 does: 1-10[5] is 1, 3, 5, 7, 10."""
    if not 1 <= count <= MAX_VALUES:
        raise StrataError(f"{what}: {_shown(entry)} is {count} values. Ask for 1 to {MAX_VALUES}.")
    found = [start + (end - start) * at / max(1, count - 1) for at in range(count)]
    if whole:
        return [Decimal(int(each)) for each in found]
    # Thirds have no end in decimals: twelve digits are more than any strength needs.
    return [Decimal(f"{each:.12g}") for each in found]


def _number(text: str, entry: str, what: str, whole: bool, signed: bool = False) -> Decimal:
    value = Decimal(text)
    if not abs(float(value)) < 1e300:
        raise StrataError(f"{what}: {_shown(entry)} is far too large.")
    if whole and (value != int(value) or (not signed and not 0 <= value <= MAX_WHOLE)):
        raise StrataError(f"{what}: {_shown(entry)} has to be whole numbers from 0 on, such as 20 or 1-5.")
    return value


def _shown(text: str) -> str:
    return f"'{text if len(text) <= 80 else text[:77] + '...'}'"
