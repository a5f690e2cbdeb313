"""What arrives at a node's inputs, checked in one way: a prompt sent by a program may leave anything out, or put anything in.

Each function gives the value, or raises StrataError with a sentence that names the input (``name``) and says what to do (``advice``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..lora_math.errors import StrataError
from ..lora_math.wording import number as shown_number


def text(value, name: str, advice: str) -> str:
    """A text, which may be empty."""
    if value is None:
        raise StrataError(f"{name} is missing (null). {advice}")
    if not isinstance(value, str):
        raise StrataError(f"{name} is {_shown(value)}, which is not a text. {advice}")
    return value


def filled(value, name: str, advice: str) -> str:
    """A text that says something."""
    if not text(value, name, advice).strip():
        raise StrataError(f"{name} is empty. {advice}")
    return value


def patchable(value, name: str):
    """A MODEL or CLIP, or None where nothing is connected."""
    if value is not None and not callable(getattr(value, "add_patches", None)):
        raise StrataError(
            f"{name} is {_shown(value)}, not a {name.removeprefix('base_').upper()}. Connect the output of a loader."
        )
    return value


def number(value, name: str, default: float = 1.0) -> float:
    """A finite number; the default where it is missing."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise StrataError(
            f"{name} is {_shown(value)}, which is not a number. Write one, such as {shown_number(default)}."
        )
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise StrataError(f"{name} is {found}: it must be a number. Write one, such as {shown_number(default)}.")
    return found


def whole(value, name: str, default: int = 0, most: int | None = None) -> int:
    """A whole number of at most 64 bits, from 0 to ``most`` where that is given; the default where it is missing."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise StrataError(f"{name} is {_shown(value)}, which is not a whole number. Write one, such as {default}.")
    if abs(value) >= 2**64:
        raise StrataError(f"{name} is {_shown(value)}, which is too large. Write one, such as {default}.")
    if most is not None and not 0 <= value <= most:
        raise StrataError(f"{name} is {_shown(value)}: it must be a whole number from 0 to {most}.")
    return value


def switch(value, name: str, default: bool = False) -> bool:
    """True or false; the default where it is missing."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise StrataError(f"{name} is {_shown(value)}; it is true or false.")
    return value


def choice(value, name: str, options: Sequence[str]) -> str:
    """One of the options; the first where it is missing."""
    if value is None:
        return options[0]
    if value not in options:
        raise StrataError(f"{name} is {_shown(value)}; it is one of {', '.join(options)}.")
    return value


def _shown(value) -> str:
    # Python writes no number of more than 4300 digits.
    if isinstance(value, int) and abs(value) >= 10**80:
        return "a number of more than 80 digits"
    shown = repr(value) if isinstance(value, (str, int, float, bool)) else f"a {type(value).__name__}"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
