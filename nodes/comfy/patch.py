"""Our adapters as ComfyUI weight patches: one patch per weight, however many loaders were chained.

ComfyUI rebuilds a patch as ``type(p)(p.loaded_keys, moved(p.weights))`` whenever it prefetches weights, so everything a patch
knows lies in ``weights``, as nested tuples of tensors, numbers and strings, and nothing is ever written to it.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import NamedTuple

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ...lora_math.adapters import Adapter, from_record
from ...lora_math.adapters.dense import wider
from ...lora_math.errors import StrataError
from ...lora_math.extremes import largest as largest_of
from ...lora_math.fuse import Term, apply_all_
from .internals import find
from .targets import Key, taken_apart

# The largest number of half precision, in which most models' weights end up.
LARGEST = 65504
# A change that cannot reach further than this makes no weight larger than LARGEST.
SAFE = 1000
# So little that a stack of many such is safe.
SMALL = SAFE / 50
# (axis, start, length) of the part of a weight that a patch changes.
Offset = tuple[int, int, int] | None


class StrataPatch(WeightAdapterBase):
    """Adapters on one weight, applied in order. ``weights`` is (moves rows, ((coefficient, adapter record, file, reach), ...))."""

    name = "strata"

    def __init__(self, loaded_keys, weights):
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def of(cls, terms: Iterable[Term], moves_rows: bool, file: str = "a LoRA") -> StrataPatch:
        """moves_rows: whether the target's key names a function that reorders the delta's rows. file: whose the terms are."""
        return cls((), (moves_rows, _records(terms, file)))

    def calculate_shape(self, key):
        shapes = [shape for _, record, *_ in self.weights[1] if (shape := from_record(record).shape_after) is not None]
        return reduce(wider, shapes) if shapes else None

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset,
        function,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight=None,
    ) -> Tensor:
        # In place: with an offset, ``weight`` is a view into the fused weight and what is returned gets dropped.
        moves_rows, terms = self.weights
        if strength == 0:
            return weight
        adapters = (
            (strength * coefficient, from_record(_on(record, weight.device))) for coefficient, record, *_ in terms
        )
        changed = apply_all_(weight, adapters, intermediate_dtype, function if moves_rows else None)
        # Looking is one more pass over the weight, and waits for a GPU: not where the factors are too small to reach that far.
        reach = sum(abs(strength * coefficient) * reach for coefficient, *_, reach in terms)
        # NaN is neither.
        if not (reach <= SAFE or largest_of(changed) <= LARGEST):
            raise too_large(dict.fromkeys(file for _, _, file, _ in terms), key)
        return changed


def too_large(files: Iterable[str], key: str) -> StrataError:
    return StrataError(
        f"{', '.join(files)}: {key} becomes larger than a model's numbers can be, which would turn every image black. "
        "Lower the strength; if it is low already, the file is damaged."
    )


class Changes(NamedTuple):
    """One LoRA's. changes: patch key -> its terms in order; a coefficient of 0 is none. file: whose they are, for messages.
    identity: the same for the same file and settings; None counts as something never seen before. largest: no number of the file is
    larger."""

    changes: Mapping[Key, Iterable[Term]]
    file: str = "a LoRA"
    identity: str | None = None
    largest: float = math.inf


def add(model, changes: Mapping[Key, Iterable[Term]], file: str = "a LoRA", identity: str | None = None) -> None:
    """Patches a cloned MODEL or CLIP with one LoRA, as ``add_all`` does."""
    add_all(model, [Changes(changes, file, identity)])


def add_all(model, loras: Iterable[Changes]) -> None:
    """Patches a cloned MODEL or CLIP with LoRAs in order. All that this pack patches a weight with is one patch.

    The same LoRAs on the same model are then the same patched model, and ComfyUI has nothing to patch anew.
    """
    patcher = getattr(model, "patcher", model)
    records: dict[Key, list] = {}
    identities = []
    for changes, file, identity, largest in loras:
        count = 0
        for key, terms in changes.items():
            found = _records(terms, file, largest)
            if found:
                records.setdefault(key, []).extend(found)
                count += 1
        identities += [identity] if count else []
    if not records:
        return
    patches = {}
    for key, new in records.items():
        name, offset, function = taken_apart(key)
        before = _taken(patcher.patches.get(name, ()), offset, function)
        patches[key] = StrataPatch((), (function is not None, (*before, *new)))
    before = patcher.patches_uuid
    _clean_up_after(patcher)
    # A model with live LoRAs is of a class of its own, see ``live_model``.
    kind = getattr(type(patcher), "without_live", type(patcher))
    if kind.add_patches is not ModelPatcher.add_patches:
        model.add_patches(patches)
    else:
        _add_patches(patcher, patches)
    if None not in identities:
        patcher.patches_uuid = reduce(uuid.uuid5, identities, before)


def _add_patches(patcher: ModelPatcher, patches: Mapping[Key, StrataPatch]) -> None:
    """What ModelPatcher.add_patches does, less a state dict of the whole model at every node of a chain: ``targets`` has found each
    weight in one."""
    for key, found in patches.items():
        name, offset, function = taken_apart(key)
        of_weight = patcher.patches.setdefault(name, [])
        # What widens a weight comes last: all else was made for the weight as it is.
        at = next((i for i, (_, other, *_) in enumerate(of_weight) if _widens(other)), len(of_weight))
        of_weight.insert(at, (1.0, found, 1.0, offset, function))
    patcher.patches_uuid = uuid.uuid4()


def attach_metadata(model, metadata: Mapping[str, str]) -> None:
    """Hangs a LoRA file's metadata on a cloned MODEL or CLIP, where ComfyUI's own LoRA loader puts it and other nodes look for it."""
    getattr(model, "patcher", model).set_attachments("lora_metadata", dict(metadata))


def _clean_up_after(patcher) -> None:
    """What ComfyUI leaves behind of a loading that ended early is taken off again."""
    without = "After a run that was stopped while a model was loading, unload the models before the next one."
    callbacks = find("comfy.patcher_extension", "CallbacksMP", without)
    if callbacks is not None:
        patcher.callbacks.setdefault(callbacks.ON_DETACH, {})[StrataPatch.name] = [_free_layers]
    wrappers = find("comfy.patcher_extension", "WrappersMP", without)
    if wrappers is not None:
        found = patcher.model_options["transformer_options"].setdefault("wrappers", {})
        found.setdefault(wrappers.PREPARE_SAMPLING, {})[StrataPatch.name] = [_undo_half_a_loading]


def _undo_half_a_loading(executor, model, *args, **kwargs):
    """ComfyUI takes the patches off again when a loading fails, but an interrupt is no Exception and passes it."""
    try:
        return executor(model, *args, **kwargs)
    except BaseException:
        model.detach()
        raise


def _free_layers(patcher, unpatched: bool) -> None:
    """Takes off the patches that wait at layers for each forward.

    ComfyUI does so only for a model that was loaded to the end: after half a loading into little memory the layers would keep this LoRA
    in every later run, also without it. A dynamic patcher sets them anew by itself.
    """
    if not unpatched or patcher.is_dynamic():
        return
    wipe_lowvram_weight = find(
        "comfy.model_patcher",
        "wipe_lowvram_weight",
        "A LoRA that was patched into little memory may stay in layers after it was removed: reload the model then.",
    )
    if wipe_lowvram_weight is not None:
        for module in patcher.model.modules():
            wipe_lowvram_weight(module)


def _widens(patch) -> bool:
    return isinstance(patch, StrataPatch) and patch.calculate_shape("") is not None


def _taken(patches: list[tuple], offset: Offset, function) -> tuple:
    """The records of this pack's last patch of the same part, taken out of ``patches``; () where something stands in between.

    Patches of other parts of the weight do not: their order among each other changes nothing.
    """
    for at in reversed(range(len(patches))):
        strength, patch, strength_model, other_offset, other_function = patches[at]
        if not isinstance(patch, StrataPatch) or strength_model != 1:
            break
        if other_offset == offset and other_function is function:
            del patches[at]
            # They are at strength 1, unless another pack has taken the patch over.
            records = patch.weights[1]
            return records if strength == 1 else tuple((strength * c, *rest) for c, *rest in records)
        if not _apart(offset, other_offset):
            break
    return ()


def _apart(a: Offset, b: Offset) -> bool:
    return a is not None and b is not None and a[0] == b[0] and (a[1] + a[2] <= b[1] or b[1] + b[2] <= a[1])


def _records(terms: Iterable[Term], file: str, largest: float = math.inf) -> tuple:
    return tuple(
        (float(coefficient), adapter.record(), file, _reach(adapter, largest))
        for coefficient, adapter in terms
        if coefficient != 0
    )


def _reach(adapter: Adapter, largest: float) -> float:
    """What the numbers of the whole file allow, where that is little enough; else what the adapter's own do, each looked at."""
    found = adapter.reach_within(largest)
    return found if found <= SMALL else adapter.reach


def _on(value, device: torch.device):
    """An adapter's record with its tensors on the device."""
    if isinstance(value, Tensor):
        return value if value.device == device else comfy.model_management.cast_to_device(value, device, value.dtype)
    return tuple(_on(item, device) for item in value) if isinstance(value, tuple) else value
