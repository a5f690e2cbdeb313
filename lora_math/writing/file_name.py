"""What a person types as the name of a new file: dates in it, and whether every system can have such a file."""

from __future__ import annotations

import re
from datetime import datetime

from ..errors import StrataError

# What no name may hold on Windows, and so for whoever gets the folder copied there.
_FORBIDDEN = '<>:"|?*'
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
# How many letters of a piece of a name a message shows.
_SHOWN = 60

_PLACEHOLDER = re.compile(r"%(\w[^%/\\]*)%")
_DATE_PARTS = re.compile(r"yyyy|yy|dd?|MM?|hh?|mm?|ss?")
_WORDS = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}
_KNOWN = "%date:yyyy-MM-dd%, %year%, %month%, %day%, %hour%, %minute% and %second%"


def written_out(prefix: str, now: datetime) -> str:
    r"""The name with its dates, with ``/`` between folders, and without spaces around its parts.

    >>> written_out(r"faces\%date:yyyy-MM-dd%", datetime(2026, 11, 28))
    'faces/2026-11-28'

    ``%date:...%`` is as ComfyUI's page has it for its own savers. Raises StrataError for a placeholder that is not known, and for a name
    that Windows, macOS or Linux cannot have. Whether the name leads out of its folder is for the caller to see.
    """
    dated = _PLACEHOLDER.sub(lambda found: _value(found[1], now), prefix)
    pieces = [piece.strip() for piece in dated.replace("\\", "/").split("/")]
    # A number is put behind the last one.
    for piece in (*pieces[:-1], f"{pieces[-1]}_"):
        if wrong := _problem(piece):
            raise StrataError(f"filename_prefix: {_cut(piece.removesuffix('_'))} {wrong} Choose another name.")
    return "/".join(pieces)


def _value(placeholder: str, now: datetime) -> str:
    if placeholder in _WORDS:
        return now.strftime(_WORDS[placeholder])
    kind, colon, pattern = placeholder.partition(":")
    if kind != "date" or not colon:
        raise StrataError(f"filename_prefix: {_cut(f'%{placeholder}%')} is not known. Known are {_KNOWN}.")
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(found: re.Match[str]) -> str:
        text = found[0]
        return f"{now.year:04}"[-len(text) :] if text[0] == "y" else f"{numbers[text[0]]:0{len(text)}}"

    return _DATE_PARTS.sub(part, pattern)


def _problem(piece: str) -> str | None:
    """Why no folder or file can be called so everywhere, as the end of a sentence."""
    if letters := [letter for letter in _FORBIDDEN if letter in piece]:
        return f"holds {' and '.join(letters)}, which no file name on Windows may hold."
    if piece.partition(".")[0].rstrip().lower() in _DEVICES:
        return "is the name of a device on Windows, not of a file."
    if piece.endswith(".") and piece not in (".", ".."):
        return "ends with a dot, which Windows takes away."
    return None


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")
