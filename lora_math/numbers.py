"""How people write a number: in a tag, in a vector and in the weights text, everywhere the same."""

from __future__ import annotations

import math
import re

# A point that a second one follows belongs to a ramp: "1...5" goes from 1 to .5. No digit can be read in two ways, so that a number
# of any length is matched, or not, in one pass.
NUMBER = r"[+-]?(?:[0-9]+(?:\.(?!\.)[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_NUMBER = re.compile(NUMBER)


def is_number(text: str) -> bool:
    """Whether a text is a plain decimal number, such as ``1``, ``-.5``, ``1.`` or ``2e-1``; ``nan``, ``1_0`` and other scripts' digits
    are none."""
    return _NUMBER.fullmatch(text) is not None


def finite(value) -> float | None:
    """What another program stores as a number, or as the text of one; None for anything else, infinities included."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def show_number(value: float) -> str:
    """The shortest text that reads back as the same number, without a negative zero.

    >>> show_number(1.0)
    '1'
    """
    text = repr(float(value) + 0.0)
    return text[:-2] if text.endswith(".0") else text
