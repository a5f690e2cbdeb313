"""LORA_MODEL, ComfyUI's type for a LoRA in memory: the result of a training, or what Save LoRA hands on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..lora_math.errors import StrataError
from ..lora_math.wording import some
from .comfy.library import Lora, in_memory

# What reports call it, as it has no file name.
TRAINED = "LORA_MODEL"

_lock = threading.Lock()
_known: WeakValueDictionary[str, Lora] = WeakValueDictionary()


def trained_lora(value) -> Lora:
    """The LoRA of a LORA_MODEL. The same numbers are the same ``Lora`` as long as something holds it, so that a moved strength finds it
    fitted already. Raises StrataError for what is no LORA_MODEL, or holds no LoRA."""
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise StrataError(
            f"The lora_model input takes a LORA_MODEL, of Train LoRA or Save LoRA (Strata), not a {type(value).__name__}."
        )
    tensors = {str(key): tensor.detach().to("cpu") for key, tensor in value.items()}
    identity = _digest(tensors)
    with _lock:
        found = _known.get(identity)
    if found is None:
        found = in_memory(TRAINED, identity, tensors)
        if not found.contents.entries:
            example = f", such as {some(tensors)}" if tensors else ""
            raise StrataError(
                f"The LORA_MODEL holds no LoRA that this pack knows ({len(tensors)} tensors{example}). "
                "Connect the output of Train LoRA."
            )
        with _lock:
            found = _known.setdefault(identity, found)
    return found


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and numbers: a training that goes on may change them in place."""
    found = hashlib.blake2b(digest_size=16)
    for key, tensor in tensors.items():
        found.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode(errors="surrogatepass"))
        found.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()
