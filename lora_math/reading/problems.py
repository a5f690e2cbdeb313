"""What is wrong with a file, in words that a person can act on."""

from __future__ import annotations

import os

from ..errors import StrataError

AGAIN = "Download it again."
CHANGED = ("it changed while it was being read", "Wait until it is complete and try again.")
HTML = ("it is a web page, not a LoRA", "The download needed a login or its link was wrong: download the file itself.")


class LoraFileError(StrataError):
    """A file that cannot be used: which, how large, why, and what to do."""

    def __init__(self, path: str, size: int | None, reason: str, advice: str):
        self.path, self.size, self.reason, self.advice = path, size, reason, advice
        shown = printable(os.path.basename(path)) + ("" if size is None else f" ({show_size(size)})")
        super().__init__(f"{shown}: {reason}. {advice}")


def show_size(size: int) -> str:
    """A file size as people read it.

    >>> show_size(151_111_111)
    '151.1 MB'
    """
    number = float(min(size, 10**30))
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def looks_like_html(start: bytes) -> bool:
    text = start.lstrip().lower()
    return text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def printable(text: str) -> str:
    """The text without halves of characters (surrogates), which JSON and file names may hold and nothing can show."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def short(text: str, limit: int = 120) -> str:
    line = " ".join(printable(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
