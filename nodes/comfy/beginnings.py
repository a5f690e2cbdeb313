"""Where T-LoRAs began to train: singular vectors of the model's own weights, found once and kept.

Finding them takes minutes for a large model. They are kept in the user directory, by the file and the weights that they are for, and are
safe to delete.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...lora_math.adapters import Adapter
from ...lora_math.adapters.tlora import Directions, beginning, directions
from ...lora_math.errors import StrataError
from ...lora_math.fuse import Term
from .live_layers import current
from .saving import Progress
from .targets import Key, taken_apart
from .user_files import user_file

FOLDER = "tlora"
# The most bytes of all files together; the oldest go.
MAX_BYTES = 4 << 30
# Numbers of a weight that tell it from another one.
SAMPLES = 1 << 14

# A model -> (adapter as the file has it, patch key) -> the adapter that can be applied.
_known: WeakKeyDictionary[nn.Module, WeakKeyDictionary[Adapter, dict[Key, Adapter]]] = WeakKeyDictionary()
_lock = threading.Lock()


def begun(owner, changes: Mapping[Key, Sequence[Term]], file: str, identity: str) -> dict[tuple[Key, Adapter], Adapter]:
    """(patch key, adapter) -> the adapter that can be applied, for those that have to be told where in the model's weight they began.

    owner: the MODEL or CLIP; file: whose changes they are, identity: the same for the same contents. Raises StrataError, naming the file
    and the layer, for what did not begin in this model. Can be interrupted, and goes on from there the next time.
    """
    waiting = [(key, a) for key, terms in changes.items() for _, a in terms if a.began_in_weight]
    if not waiting:
        return {}
    patcher = getattr(owner, "patcher", owner)
    with _lock:
        known = _known.setdefault(patcher.model, WeakKeyDictionary())
        missing = [(key, a) for key, a in waiting if key not in known.get(a, {})]
        if missing:
            _find(patcher, known, missing, file, identity)
        return {(key, a): known[a][key] for key, a in waiting}


def _find(patcher, known, missing: Sequence[tuple[Key, Adapter]], file: str, identity: str) -> None:
    kept = _Kept(patcher, [key for key, _ in missing], identity)
    progress = Progress(len(missing))
    logging.info("[Strata] %s: finding where %d layers of this T-LoRA began to train", file, len(missing))
    try:
        for key, adapter in missing:
            progress.step()
            weight = _own_weight(patcher, key)
            try:
                if tuple(weight.shape) != adapter.matrix_shape:
                    raise StrataError("this model's weight is stored in a form that only its own loader can unpack")
                found = kept.get(key, weight, adapter) or _directions(weight, adapter)
                ready = adapter.begun(beginning(weight, adapter, found))
            except StrataError as problem:
                raise StrataError(
                    f"{file}: {taken_apart(key)[0]}: {problem}. Use the model that it was trained on."
                ) from None
            kept.add(key, weight, found)
            known.setdefault(adapter, {})[key] = ready.map_tensors(lambda tensor: tensor.float().cpu())
    finally:
        kept.write()


def _directions(weight: Tensor, adapter: Adapter) -> Directions:
    """In single precision, as they are kept: the second run is then the same as the first."""
    try:
        found = directions(weight, adapter)
    # Not every GPU's library has it, or the memory.
    except RuntimeError:
        if weight.device.type == "cpu":
            raise
        found = directions(weight.cpu(), adapter)
    return found._replace(vectors=found.vectors.float().to(weight.device))


def _own_weight(patcher, key: Key) -> Tensor:
    """[out, in] as float32, without patches, the part and the order of rows that the LoRA means."""
    name, part, rows = taken_apart(key)
    # Other kinds of device have no float64.
    device = patcher.load_device if patcher.load_device.type == "cuda" else torch.device("cpu")
    weight = current(patcher, name, device, patched=False)
    weight = weight if part is None else weight.narrow(*part)
    return (weight if rows is None else rows(weight)).flatten(1)


# What may be left of W^T W v - s^2 v, as a part of the sizes of W and W v: single precision leaves a hundredth of it.
LEFT = 1e-4


class _Kept:
    """The singular vectors of one file on one model, on disk: nothing there is trusted, and nothing depends on it."""

    def __init__(self, patcher, keys: Sequence[Key], identity: str):
        digest = hashlib.sha256(identity.encode())
        for key in sorted({taken_apart(key)[0] for key in keys})[:: max(1, len(keys) // 4)]:
            digest.update(_mark(_own_weight(patcher, key)).encode())
        self.path = user_file(os.path.join(FOLDER, f"{digest.hexdigest()[:32]}.safetensors"))
        self.tensors: dict[str, Tensor] = {}
        self.changed = False
        try:
            with safe_open(self.path, "pt") as file:
                self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (OSError, SafetensorError):
            pass

    def get(self, key: Key, weight: Tensor, adapter: Adapter) -> Directions | None:
        for on_input in (True, False):
            vectors = self.tensors.get(_name(key, weight, on_input))
            size = weight.shape[1 if on_input else 0]
            if vectors is None:
                continue
            if vectors.shape == (adapter.rank, size) and _are_directions(vectors, weight, on_input):
                return Directions(vectors.to(weight.device), on_input, "")
            # Something else has come into the file: it is found anew, and kept in its place.
            del self.tensors[_name(key, weight, on_input)]
        return None

    def add(self, key: Key, weight: Tensor, found: Directions) -> None:
        name = _name(key, weight, found.on_input)
        if name not in self.tensors:
            self.tensors[name] = found.vectors.float().cpu().contiguous()
            self.changed = True

    def write(self) -> None:
        if not self.changed:
            return
        folder = os.path.dirname(self.path)
        try:
            os.makedirs(folder, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=".tlora.")
            os.close(handle)
            try:
                save_file(self.tensors, temporary)
                os.replace(temporary, self.path)
            except BaseException:
                os.unlink(temporary)
                raise
            _tidy(folder, self.path)
        # Safetensors has an error of its own for a full disk.
        except (OSError, SafetensorError) as problem:
            logging.warning(
                "[Strata] Where a T-LoRA began could not be kept, and is looked for again the next time: %s", problem
            )


def _are_directions(vectors: Tensor, weight: Tensor, on_input: bool) -> bool:
    """Whether these rows [rank, size] are singular vectors of this weight, as far as single precision tells."""
    if vectors.dtype != torch.float32 or not bool(torch.isfinite(vectors).all()):
        return False
    matrix, found = (weight if on_input else weight.T).float(), vectors.to(weight.device)
    if not torch.allclose(found @ found.T, torch.eye(len(found), device=found.device), atol=1e-3):
        return False
    seen = matrix @ found.T
    values = seen.square().sum(0)
    left = torch.linalg.matrix_norm(matrix.T @ seen - found.T * values)
    return bool(left <= LEFT * torch.linalg.matrix_norm(matrix) * torch.linalg.matrix_norm(seen))


def _tidy(folder: str, newest: str) -> None:
    """The oldest files go, until the rest is small enough."""
    found = [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    found.sort(key=lambda entry: (entry.path == newest, entry.stat().st_mtime_ns), reverse=True)
    total = 0
    for entry in found:
        total += entry.stat().st_size
        if total > MAX_BYTES and entry.path != newest:
            os.unlink(entry.path)


def _name(key: Key, weight: Tensor, on_input: bool) -> str:
    name, part, _ = taken_apart(key)
    return f"{name}|{part}|{_mark(weight)}|{'in' if on_input else 'out'}"


def _mark(weight: Tensor) -> str:
    """Tells a weight from every other one that is in use: a fine-tuned one differs everywhere."""
    numbers = weight.flatten()
    some = numbers[:: max(1, len(numbers) // SAMPLES)].float().cpu().contiguous()
    return hashlib.sha256(repr(tuple(weight.shape)).encode() + some.numpy().tobytes()).hexdigest()[:16]
