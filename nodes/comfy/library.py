"""LoRA files by the names that workflows give them, opened once for the whole process."""

from __future__ import annotations

import json
import math
import os
import stat
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import folder_paths
from torch import Tensor

from ...lora_math import family
from ...lora_math.reading import contents as reading
from ...lora_math.reading import files, state_dict
from ...lora_math.reading.trigger_words import sidecars, trigger_words
from ...lora_math.reading.unsupported import method_of
from ...lora_math.reading.xlabs import convert
from ...lora_math.wording import some
from .internals import find, need
from .lora_names import locate

CACHE_BYTES = 2 << 30
MAX_CONFIG = 1 << 20


class FileKey(NamedTuple):
    """Which contents a file has: real path, size [bytes], when it was modified and when anything about it changed [ns], and size and time
    of PEFT's configuration beside it, where that counts. A file that is missing has no size.

    Whoever copies or moves a file may keep the time of its modification; that of the change is the file system's own.
    """

    path: str
    size: int
    modified: int
    changed: int
    config: tuple[int, int] | None = None

    @property
    def kept(self) -> tuple:
        """What is kept of a file from one start of ComfyUI to the next: a new owner or link changes the time of its change, and no more."""
        return self.path, self.size, self.modified, self.config


@dataclass(frozen=True, eq=False)
class Lora:
    """An opened file: its adapters, its family, all families that it can be for, and the tensors that hold NaN or Inf. No number
    of the others is larger than ``largest``.

    A LoRA that is in memory only has no path.
    """

    name: str
    path: str
    # It changes with the file's contents, as ``file_key`` does, but is of what was read.
    key: FileKey
    size: int
    metadata: dict[str, str]
    contents: state_dict.StateDict
    family: str | None
    families: tuple[str, ...]
    broken: frozenset[str]
    largest: float
    tensors: int
    nbytes: int
    _energies: dict[tuple, float | None] = field(default_factory=dict, repr=False)
    _words: dict = field(default_factory=dict, repr=False)

    @property
    def trigger_words(self) -> list[str]:
        """Words for the prompt; sidecar files are read again only when one of them has changed."""
        if not self.path:
            return []
        stamps = tuple(map(_stamp, sidecars(self.path)))
        if self._words.get("stamps") != stamps:
            self._words.update(stamps=stamps, words=trigger_words(self.path, self.metadata))
        return self._words["words"]

    @property
    def identity(self) -> str:
        return repr(self.key)

    @cached_property
    def idle(self) -> frozenset[state_dict.Entry]:
        """Entries that change nothing: they were not trained, or their alpha is 0."""
        return frozenset(entry for entry in self.contents.entries if entry.adapter.is_idle)

    def energy(self, entry: state_dict.Entry, shape: tuple[int, ...], part=None) -> float | None:
        """Squared norm of an entry's change of a weight of this shape; None where it depends on the weight or overflows.
        Computed once.

        part: (start, length, total) rows of the adapter, where the weight holds only these.
        """
        key = (entry, part)
        if key not in self._energies:
            adapter = entry.adapter if part is None else entry.adapter.cut(*part)
            found = None if adapter is None else adapter.squared_norm(shape)
            self._energies[key] = found if found is not None and math.isfinite(found) else None
        return self._energies[key]


def shown_path(name: str) -> str | None:
    """Where a name of the list is; None for a link that leads out of the folders, of which a web page is told nothing."""
    path = folder_paths.get_full_path("loras", name)
    return path if path is not None and place_in_folders(path) is not None else None


def place_in_folders(path: str) -> tuple[int, str] | None:
    """(index of the ``loras`` folder, path in it with slashes) of the real file; None for a link that leads out of all of them."""
    is_within_directory = need("folder_paths", "is_within_directory", "What the desk shows of a file")
    for at, folder in enumerate(folder_paths.get_folder_paths("loras")):
        if is_within_directory(folder, path):
            return at, os.path.relpath(path, folder).replace(os.sep, "/")
    return None


class LoraCache:
    """Opened LoRAs by their name and ``file_key``, the least recently used dropped beyond ``budget`` bytes.

    Safe from any thread; threads that want the same file at the same time read it once, also where nothing more fits.
    """

    def __init__(self, budget: int = CACHE_BYTES):
        self.budget = budget
        self._lock = threading.Lock()
        self._reading: dict[tuple, Future[Lora]] = {}
        self._loras: OrderedDict[tuple, Lora] = OrderedDict()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(lora.nbytes for lora in self._loras.values())

    def holds(self, name: str) -> bool:
        """Whether a file of this listed name is open, though it may have changed since."""
        with self._lock:
            return any(known == name for known, _ in self._loras)

    def get(self, name: str) -> Lora:
        """The opened file. Raises StrataError (LoraFileError for what is wrong with the file itself)."""
        name, path = locate(name)
        key = (name, file_key(path))
        with self._lock:
            if key in self._loras:
                self._loras.move_to_end(key)
                return self._loras[key]
            reading = self._reading.get(key)
            if reading is None:
                mine = self._reading[key] = Future()
        if reading is not None:
            return reading.result()
        try:
            lora = open_lora(name, path)
        except BaseException as problem:
            mine.set_exception(problem)
            raise
        else:
            mine.set_result(lora)
            with self._lock:
                self._keep(lora)
            return lora
        finally:
            with self._lock:
                del self._reading[key]

    def clear(self) -> None:
        with self._lock:
            self._loras.clear()

    def _keep(self, lora: Lora) -> None:
        name, (path, *_) = lora.name, lora.key
        # These are older contents of the same file.
        for other in [key for key in self._loras if (key[0], key[1][0]) == (name, path)]:
            del self._loras[other]
        self._loras[name, lora.key] = lora
        total = sum(held.nbytes for held in self._loras.values())
        while total > self.budget and len(self._loras) > 1:
            total -= self._loras.popitem(last=False)[1].nbytes


def file_key(path: str) -> FileKey:
    """Changes when the file is replaced under the same name, or when PEFT's configuration beside it is."""
    real = os.path.realpath(path)
    try:
        found = os.stat(real)
    except OSError:
        return FileKey(real, 0, 0, 0)
    return FileKey(real, found.st_size, found.st_mtime_ns, found.st_ctime_ns, _config_stamp(path))


def open_lora(name: str, path: str) -> Lora:
    """Reads and understands a file, past the cache. Raises LoraFileError."""
    # It comes first: if it changes now, the key is an old one, and the file is read again.
    config = adapter_config(path)
    file = files.read_lora_file(path, _no_lora_by_names)
    tensors = convert(_converted(file.tensors))
    contents = state_dict.parse(tensors, file.metadata, config.fields)
    if not contents.entries:
        raise files.LoraFileError(path, file.size, *_nothing_usable(tensors, contents.leftovers))
    key = FileKey(os.path.realpath(path), file.size, file.modified, file.changed, config.stamp)
    known = reading.Contents(file.tensors, file.largest)
    return _understood(name, path, key, dict(file.metadata), tensors, contents, file.nbytes, known)


def in_memory(name: str, identity: str, tensors: Mapping[str, Tensor]) -> Lora:
    """A LoRA that has no file. identity: differs for other tensors. It may have no entries."""
    tensors = convert(_converted(tensors))
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    return _understood(name, "", FileKey(identity, nbytes, 0, 0), {}, tensors, state_dict.parse(tensors), nbytes)


def _understood(
    name: str,
    path: str,
    key: FileKey,
    metadata: dict[str, str],
    tensors: Mapping[str, Tensor],
    contents: state_dict.StateDict,
    nbytes: int,
    known: reading.Contents | None = None,
) -> Lora:
    numbers = reading.check_numbers(tensors, known)
    # T-LoRAs are made of the model's weights too.
    largest = math.inf if any(entry.adapter.varies for entry in contents.entries) else numbers.largest
    found = family.guess(contents.entries, metadata)
    return Lora(
        *(name, path, key, key.size, metadata, contents, found.family, found.families),
        *(numbers.broken, largest, len(tensors), nbytes),
    )


def _converted(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """ComfyUI's own renaming of some trainers' keys; as they are where it trips over a file that only looks like one of those."""
    convert_lora = find("comfy.lora_convert", "convert_lora", "A few trainers' files keep names that no model has.")
    if convert_lora is None:
        return tensors
    try:
        converted = convert_lora(tensors)
        # ComfyUI 0.35 cuts fused q, k, v apart, which loses DoRA's norms over all three; here the targets do it.
        return tensors if any(key.endswith(".row_offset") for key in converted) else converted
    except (LookupError, AttributeError):
        return tensors


def _stamp(path: str) -> tuple[int, int] | None:
    """(size, modification time [ns]) of a file; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


class AdapterConfig(NamedTuple):
    """PEFT's ``adapter_config.json``: its contents, None where there is none that counts, and when they were written."""

    fields: dict | None
    stamp: tuple[int, int] | None


def adapter_config(path: str) -> AdapterConfig:
    """PEFT's ``adapter_config.json`` where it lies beside the file that it was saved with.

    In a folder with other LoRAs it says nothing about a file that does not carry PEFT's own name.
    """
    stamp = _config_stamp(path)
    if stamp is None:
        return AdapterConfig(None, None)
    try:
        with open(_config_beside(path), encoding="utf-8") as file:
            found = json.loads(file.read(MAX_CONFIG))
    except (OSError, ValueError, RecursionError):
        found = None
    return AdapterConfig(found if isinstance(found, dict) else None, stamp)


def _config_beside(path: str) -> str:
    return os.path.join(os.path.dirname(path), "adapter_config.json")


def _config_stamp(path: str) -> tuple[int, int] | None:
    """(size, modification time [ns]) of the configuration that counts for a file; None where none does."""
    config, (folder, name) = _config_beside(path), os.path.split(path)
    try:
        found = os.stat(config)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_CONFIG:
            return None
        if not name.startswith("adapter_model."):
            endings = (".safetensors", *files.PICKLED)
            if any(entry.name.lower().endswith(endings) and entry.name != name for entry in os.scandir(folder)):
                return None
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


_OTHER_KINDS = (
    (
        "model.diffusion_model.",
        "it is a whole checkpoint",
        "Move it to models/checkpoints and load it with Load Checkpoint.",
    ),
    (
        "first_stage_model.",
        "it is a whole checkpoint",
        "Move it to models/checkpoints and load it with Load Checkpoint.",
    ),
    ("lora_controlnet", "it is a control LoRA", "Move it to models/controlnet and load it with Load ControlNet Model."),
    ("lllite_unet", "it is a ControlNet-LLLite", "Move it to where the nodes for ControlNet-LLLite look for it."),
    ("control_model.", "it is a ControlNet", "Move it to models/controlnet."),
    ("decoder.up", "it is a VAE", "Move it to models/vae."),
    ("string_to_param", "it is a textual inversion embedding", "Move it to models/embeddings."),
    ("emb_params", "it is a textual inversion embedding", "Move it to models/embeddings."),
    ("clip_l", "it is a textual inversion embedding", "Move it to models/embeddings."),
    ("double_blocks.", "it is a diffusion model", "Move it to models/diffusion_models."),
)


# Roles that names in other files have too: the activations of audio decoders hold an alpha.
_COMMON_ROLES = ("alpha", "scalar")


def _no_lora_by_names(keys: Collection[str]) -> tuple[str, str] | None:
    """Why a file of these tensors is no LoRA, before gigabytes of it are read; None where one of them is named as a part of one."""
    for key in keys:
        found = state_dict.split_key(key)
        if (found is not None and found[1] not in _COMMON_ROLES) or "lora" in key.lower() or method_of(key):
            return None
    return _no_lora(keys) if keys else None


def _nothing_usable(tensors: Mapping[str, Tensor], leftovers: Mapping[str, str]) -> tuple[str, str]:
    """Of a file that names a method or a rule that is not read here, that; of any other, what it seems to be."""
    reasons = Counter(why for why in leftovers.values() if why != "unknown kind of tensor")
    if reasons and _other_kind(tensors) is None:
        reason, _ = reasons.most_common(1)[0]
        return f"nothing of it can be applied: {reason}", "Look for another version of this LoRA."
    return _no_lora(tensors)


def _other_kind(keys: Collection[str]) -> tuple[str, str] | None:
    for prefix, what, advice in _OTHER_KINDS:
        if any(key.startswith(prefix) for key in keys):
            return f"it holds no LoRA: {what}", advice
    return None


def _no_lora(tensors: Collection[str]) -> tuple[str, str]:
    if not tensors:
        return "it holds no tensors at all", "Save it or download it again."
    return _other_kind(tensors) or (
        f"it holds no LoRA that this pack knows ({len(tensors)} tensors, such as {some(tensors)})",
        "Check that this is a LoRA file.",
    )


CACHE = LoraCache()
