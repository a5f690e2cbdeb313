"""Where in a picture a LoRA acts, as a word in its tag: which of several masks, and whether text tokens are under it.

mask=1          where the first mask is white
mask=-1         where the first mask is black
mask=2+text     where the second one is white, and fully on text tokens, which have no place in a picture
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import StrataError

# The most masks that a word can choose from.
MOST = 1000
_WORD = re.compile(r"([+-]?)[ \t]*([0-9]{1,4})[ \t]*(?:\+[ \t]*(text))?", re.IGNORECASE)


@dataclass(frozen=True)
class Region:
    """number: of the mask, from 1; inverted: where that is black; on_text: text tokens are changed fully, and not by the share of the
    picture that the mask covers."""

    number: int
    inverted: bool = False
    on_text: bool = False

    def __str__(self) -> str:
        return f"{'-' if self.inverted else ''}{self.number}{'+text' if self.on_text else ''}"


def parse_region(text: str) -> Region:
    """Raises StrataError for what is no such word."""
    found = _WORD.fullmatch(text.strip())
    number = int(found[2]) if found else 0
    if not 1 <= number <= MOST:
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise StrataError(
            f"mask= takes the number of a mask, not '{shown}': 1 for where the first one is white, -1 for where it is black, 1+text to "
            "change text tokens fully."
        )
    return Region(number, found[1] == "-", found[3] is not None)
