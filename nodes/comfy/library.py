"""LoRA files by the names that workflows give them, opened once for the whole process."""

from __future__ import annotations

import json
import math
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import folder_paths
from torch import Tensor

from ...lora_math import family
from ...lora_math.errors import StrataError
from ...lora_math.reading import files, state_dict
from ...lora_math.reading.unsupported import method_of
from ...lora_math.reading.xlabs import convert
from ...lora_math.wording import some
from .internals import find, need

CACHE_BYTES = 2 << 30
MAX_CONFIG = 1 << 20


@dataclass(frozen=True, eq=False)
class Lora:
    """An opened file: its adapters, its family, and the tensors that hold NaN or Inf."""

    name: str
    path: str
    key: tuple[str, int, int]  # changes with the file's contents: as ``file_key``, but of what was read
    size: int
    metadata: dict[str, str]
    contents: state_dict.StateDict
    family: str | None
    broken: frozenset[str]
    tensors: int
    nbytes: int
    _energies: dict[tuple, float | None] = field(default_factory=dict, repr=False)

    @property
    def identity(self) -> str:
        return repr(self.key)

    def energy(self, entry: state_dict.Entry, shape: tuple[int, ...], part=None) -> float | None:
        """Squared norm of an entry's change of a weight of this shape; None where it depends on the weight or overflows.
        Computed once.

        part: (start, length, total) rows of the adapter, where the weight holds only these.
        """
        key = (id(entry), part)
        if key not in self._energies:
            adapter = entry.adapter if part is None else entry.adapter.cut(*part)
            found = None if adapter is None else adapter.squared_norm(shape)
            self._energies[key] = found if found is not None and math.isfinite(found) else None
        return self._energies[key]


def lora_names() -> list[str]:
    """What core's combo of the ``loras`` folders offers."""
    try:
        return folder_paths.get_filename_list("loras")
    except OSError:  # ComfyUI 0.30 trips over a folder that it has listed before and that is gone now
        return folder_paths.get_filename_list_("loras")[0]


def resolve(name: str, names: Iterable[str] | None = None) -> str:
    """The name as this machine's ``loras`` folders spell it.

    Tries in turn: the exact name; the other system's separators; other upper and lower case; a single file of the same base name;
    then the same without the file's extension, as prompt tags are written. Never a part of a name.
    Raises StrataError naming the candidates when two fit.
    """
    names = list(lora_names() if names is None else names)
    if name in names:
        return name
    wanted = _slashes(name)
    spellings = (_slashes, lambda n: _slashes(n).lower(), lambda n: os.path.basename(_slashes(n)).lower())
    for ending in (str, _without_extension):
        for spelled in spellings:
            hits = [candidate for candidate in names if spelled(ending(candidate)) == spelled(wanted)]
            if len(hits) == 1:
                return hits[0]
            if hits:
                raise StrataError(
                    f"LoRA '{name}' could be any of {len(hits)} files: {', '.join(sorted(hits)[:5])}. "
                    "Choose the one you mean in the node's list, or write its folder too."
                )
    raise StrataError(
        f"LoRA '{name}' is not in your loras folders ({len(names)} files there). "
        "Put the file there and press R to refresh, or choose another one in the node's list."
    )


def _without_extension(name: str) -> str:
    return os.path.splitext(name)[0]


def path_of(name: str) -> str:
    """Full path of a LoRA by its name in a workflow. Raises StrataError as ``resolve`` does."""
    resolved = resolve(name)
    path = folder_paths.get_full_path("loras", resolved)
    if path is None:
        raise StrataError(f"LoRA '{resolved}' is in the list but gone from the disk. Press R to refresh the list.")
    return path


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


def _slashes(name: str) -> str:
    return name.replace("\\", "/").strip("/")


class LoraCache:
    """Opened LoRAs by (real path, size, modification time), the least recently used dropped beyond ``budget`` bytes.

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

    def get(self, name: str) -> Lora:
        """The opened file. Raises StrataError (LoraFileError for what is wrong with the file itself)."""
        path = path_of(name)
        key = file_key(path)
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
        for other in [key for key in self._loras if key[0] == lora.key[0]]:  # older contents of the same file
            del self._loras[other]
        self._loras[lora.key] = lora
        total = sum(held.nbytes for held in self._loras.values())
        while total > self.budget and len(self._loras) > 1:
            total -= self._loras.popitem(last=False)[1].nbytes


def file_key(path: str) -> tuple[str, int, int]:
    """(real path, size, mtime): changes when the file is replaced under the same name. Missing files count as empty."""
    real = os.path.realpath(path)
    try:
        stat = os.stat(real)
    except OSError:
        return real, 0, 0
    return real, stat.st_size, stat.st_mtime_ns


def open_lora(name: str, path: str) -> Lora:
    """Reads and understands a file, past the cache. Raises LoraFileError."""
    file = files.read_lora_file(path, _no_lora_by_names)
    tensors = convert(_converted(file.tensors))
    contents = state_dict.parse(tensors, file.metadata, adapter_config(path))
    if not contents.entries:
        raise files.LoraFileError(path, file.size, *_nothing_usable(tensors, contents.leftovers))
    # Trainers write meaningless alphas, infinity included, where nothing reads them; where something does, ``parse`` refuses them.
    broken = frozenset(files.non_finite({key: t for key, t in tensors.items() if not key.endswith(".alpha")}))
    found = family.detect(contents.entries, file.metadata)
    key = (os.path.realpath(path), file.size, file.modified)
    return Lora(name, path, key, file.size, dict(file.metadata), contents, found, broken, len(tensors), file.nbytes)


def _converted(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """ComfyUI's own renaming of some trainers' keys; as they are where it trips over a file that only looks like one of those."""
    convert_lora = find("comfy.lora_convert", "convert_lora", "A few trainers' files keep names that no model has.")
    if convert_lora is None:
        return tensors
    try:
        return convert_lora(tensors)
    except (LookupError, AttributeError):
        return tensors


def adapter_config(path: str) -> dict | None:
    """PEFT's ``adapter_config.json`` where it lies beside the file that it was saved with, else None.

    In a folder with other LoRAs it says nothing about a file that does not carry PEFT's own name.
    """
    folder, name = os.path.split(path)
    config = os.path.join(folder, "adapter_config.json")
    try:
        if not os.path.isfile(config) or os.path.getsize(config) > MAX_CONFIG:
            return None
        if not name.startswith("adapter_model."):
            others = [
                n for n in os.listdir(folder) if n.lower().endswith((".safetensors", *files.PICKLED)) and n != name
            ]
            if others:
                return None
        with open(config, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


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
    """Why a file of these tensors is no LoRA, before gigabytes of it are read; None where only its contents can tell."""
    for key in keys:
        found = state_dict.split_key(key)
        if (found is not None and found[1] not in _COMMON_ROLES) or "lora" in key.lower() or method_of(key):
            return None
    return _other_kind(keys)


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
    return _other_kind(tensors) or (
        f"it holds no LoRA that this pack knows ({len(tensors)} tensors, such as {some(tensors)})",
        "Check that this is a LoRA file.",
    )


CACHE = LoraCache()
