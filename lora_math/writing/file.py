"""A LoRA file on the disk: whole or not at all, and never in place of another."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import safetensors.torch
from torch import Tensor

from ..errors import StrataError

# Bytes between two looks at whether to stop.
CHUNK = 8 << 20
LEGACY_START, LEGACY_LENGTH = 0x100000, 0x10000
# What a file is called until it is whole; nothing lists it as a LoRA.
PART = ".part"

# Bytes of a header that readers accept (safetensors), and what a tensor takes there at most: its name and numbers.
MAX_HEADER, HEADER_PER_TENSOR = 100_000_000, 600


@dataclass(frozen=True)
class Saved:
    """size in bytes; sha256: of all bytes behind the header, what Civitai calls AutoV3 (its first 12 digits)."""

    path: str
    size: int
    sha256: str


class Exists(StrataError):
    """A file of this name is there already."""


def save(
    path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], tick: Callable[[], None] = lambda: None
) -> Saved:
    """Writes a safetensors file with its hashes in the header, as kohya's tools compute them on the bytes that are written.

    ``sshs_model_hash``, ``sshs_legacy_hash`` and ``modelspec.hash_sha256`` are added. The bytes go to a file of another name in the same
    folder, are flushed to the disk, and get their name last. tick: called now and then, may raise to stop.
    Raises Exists where the name is taken, StrataError for what the system says against writing. Whatever is raised, nothing is left.
    """
    if "\0" in path:
        raise StrataError(
            "The LoRA was not saved: the system takes no file name with a zero in it. Choose another name."
        )
    # Words of other files' headers may hold halves of letters, which no file can.
    metadata = {_whole(key): _whole(value) for key, value in metadata.items()}
    if broken := next((key for key in tensors if key != _whole(key)), None):
        raise StrataError(f"The LoRA was not saved: {broken!r} is no name for a tensor.")
    said = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if said + HEADER_PER_TENSOR * len(tensors) > MAX_HEADER:
        raise StrataError(
            f"The LoRA was not saved: {said / 1e6:.0f} MB of metadata are more than a file's header holds."
        )
    packed = memoryview(_packed(tensors, metadata))
    start = 8 + int.from_bytes(packed[:8], "little")
    digest = hashlib.sha256()
    for chunk in _chunks(packed[start:]):
        tick()
        digest.update(chunk)
    model_hash = digest.hexdigest()
    header = json.loads(bytes(packed[8:start]))
    header["__metadata__"] = {
        **metadata,
        "sshs_model_hash": model_hash,
        "sshs_legacy_hash": hashlib.sha256(packed[LEGACY_START : LEGACY_START + LEGACY_LENGTH]).hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{model_hash}",
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    size = 8 + len(text) + len(packed) - start
    _write(path, [len(text).to_bytes(8, "little"), text, packed[start:]], tick)
    return Saved(path, size, model_hash)


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file as kohya hashes it: with nothing but the trainer's own entries in the header."""
    own = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    return safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()}, own)


def _chunks(data: memoryview) -> Iterator[memoryview]:
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))


def _write(path: str, pieces: list, tick: Callable[[], None]) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    part = os.path.join(folder, f".{os.path.basename(path)[:80]}.{secrets.token_hex(6)}{PART}")
    try:
        os.makedirs(folder, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", path)
        try:
            with open(part, "xb") as file:
                for piece in pieces:
                    for chunk in _chunks(memoryview(piece)):
                        tick()
                        file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            tick()
            _name(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
    except FileExistsError:
        raise Exists(
            f"{os.path.basename(path)} is there already, and nothing is ever written over. Choose another name."
        ) from None
    except OSError as problem:
        raise StrataError(_reason(problem, folder, sum(map(len, pieces)))) from problem


def _name(part: str, path: str) -> None:
    """Gives the finished file its name, unless someone has taken that meanwhile."""
    try:
        # This fails where the name is taken, which a rename does not.
        os.link(part, path)
    except FileExistsError:
        raise
    # There are file systems without hard links.
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", path) from None
        os.rename(part, path)
    _sync_folder(os.path.dirname(os.path.abspath(path)))


def _sync_folder(folder: str) -> None:
    """The name itself to the disk, where the system can."""
    if os.name == "posix":
        # The file is whole; some network file systems know no such thing.
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _reason(problem: OSError, folder: str, size: int) -> str:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The LoRA was not saved: the disk is full. It needs {size / 1e6:.1f} MB in {folder}. Nothing was left behind."
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"The LoRA was not saved: {folder} cannot be written to ({problem.strerror}). Choose another folder."
    if problem.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR):
        return f"The LoRA was not saved: the system takes no such file name ({problem.strerror}). Choose another name."
    return f"The LoRA was not saved: {problem.strerror or problem}. Nothing was left behind."
