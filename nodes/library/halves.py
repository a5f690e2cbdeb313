"""The two files of a pair among those of this machine."""

from __future__ import annotations

from ...lora_math.errors import StrataError
from ...lora_math.experts import Expert, Half, half_of
from ..comfy.lora_names import locate, lora_names, path_of
from .index import INDEX


def half(name: str) -> Half:
    """What is known of a file by its name in a workflow. Raises StrataError where there is no such file, or where several files could be
    its other half."""
    return half_of(locate(name).name, frozenset(lora_names()), in_header)


def halves(name: str) -> tuple[str, str]:
    """(the file for much noise, the one for little): the same file twice where it has no other half. Raises StrataError as ``half``."""
    found, listed = half(name), locate(name).name
    if found.other is None:
        return name, name
    return (listed, found.other) if found.expert == "high" else (found.other, listed)


def in_header(name: str) -> Expert | None:
    """What the header of a file says; None where it cannot be read."""
    try:
        return INDEX.now(path_of(name, suggest=False)).expert
    except StrataError:
        # Whoever applies it says what is wrong.
        return None
