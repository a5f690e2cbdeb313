"""The names in a pickled file, without its tensors: gigabytes of a checkpoint need not be read to see what it is. What is pickled is
looked through and never run, and no more of it than any LoRA needs."""

from __future__ import annotations

import io
import pickletools
import zipfile
from typing import BinaryIO

from ..errors import StrataError

# The most bytes of the pickle that names and describes the tensors; a LoRA's of 3000 layers has a million.
MAX_LIST = 4_000_000
# Pickles in front of it in the format of PyTorch before 1.6: a magic number, a version, the system's sizes.
_BEFORE = 3
_NAMES = ("UNICODE", "STRING")


class ListTooLong(StrataError):
    """The file describes more than any LoRA holds."""


def names(file: BinaryIO) -> frozenset[str]:
    """Every text in the description of the tensors: their names among others. Of a damaged one, as far as it goes.

    Raises ListTooLong, and what zipfile has against an archive.
    """
    file.seek(0)
    # PyTorch tells the two formats apart in the same way.
    zipped = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    stream = io.BytesIO(_in_archive(file) if zipped else file.read(MAX_LIST))
    found: set[str] = set()
    try:
        for _ in range(0 if zipped else _BEFORE):
            for _ in pickletools.genops(stream):
                pass
        for code, argument, _ in pickletools.genops(stream):
            if isinstance(argument, str) and code.name.endswith(_NAMES):
                found.add(argument)
    # It is damaged, which PyTorch says too, or cut off by MAX_LIST.
    except (ValueError, MemoryError):
        if len(stream.getbuffer()) == MAX_LIST:
            raise ListTooLong("the description of its tensors is longer than any LoRA's") from None
    return frozenset(found)


def _in_archive(file: BinaryIO) -> bytes:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.filename.rpartition("/")[2] == "data.pkl":
                if entry.file_size >= MAX_LIST:
                    raise ListTooLong("the description of its tensors is longer than any LoRA's")
                return archive.read(entry)
    return b""
