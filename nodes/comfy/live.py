"""LoRAs that run beside the layers while a model samples, instead of being added to its weights.

A live LoRA is two wrappers in the MODEL's options. When a sampling starts they put PyTorch forward hooks on the layers of whatever model
ComfyUI is really sampling, and when it ends, in whatever way, they take them off. The MODEL's patches stay as they are, so ComfyUI sees
the same weights: nothing is loaded, unloaded or patched for another strength.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch

from ...lora_math.adapters import Adapter
from ...lora_math.errors import StrataError
from ...lora_math.extremes import largest
from . import live_model, patch
from .internals import need
from .live_run import Changes, LiveLora, Run
from .live_time import furthest
from .targets import taken_apart

KEY = "strata_live"
COMPILED = "Live LoRAs do not work on a model under torch.compile."


def attach(model, lora: LiveLora) -> None:
    """Adds a live LoRA to a cloned MODEL, behind those that it has. Raises StrataError for one that no model's numbers can hold."""
    _refuse_too_large(lora)
    kinds = _wrapper_kinds()
    wrappers = model.model_options["transformer_options"].setdefault("wrappers", {})
    live = Live((*loras_of(model), lora))
    wrappers.setdefault(kinds.OUTER_SAMPLE, {})[KEY] = [live.outer_sample]
    wrappers.setdefault(kinds.PREPARE_SAMPLING, {})[KEY] = [live.prepare_sampling]
    live_model.mark(model, into_patches)


def _wrapper_kinds():
    return need("comfy.patcher_extension", "WrappersMP", "apply = live")


def loras_of(model) -> tuple[LiveLora, ...]:
    """The live LoRAs of a MODEL in their order."""
    wrappers = model.model_options["transformer_options"].get("wrappers", {})
    ours = [each.__self__ for kinds in wrappers.values() for each in kinds.get(KEY, ())]
    return ours[0].loras if ours else ()


def into_patches(model) -> None:
    """Makes patches of a cloned MODEL's live LoRAs. Raises StrataError for those that patches cannot be."""
    loras = loras_of(model)
    if not loras:
        return
    if masked := [lora.file for lora in loras if lora.mask is not None]:
        raise StrataError(
            f"{', '.join(masked)}: it acts in a part of the picture only, by its mask, and a model that is merged or saved has none. "
            "Take the mask away, or load the LoRA after the merge."
        )
    if changing := [lora.file for lora in loras if not lora.is_constant]:
        raise StrataError(
            f"{', '.join(changing)}: it changes while the model samples, over time or with the prompt, and a model that is merged or "
            "saved stays as it is. Take the keyframes away, or, for a T-LoRA or TC-LoRA, load it after the merge."
        )
    for kinds in model.model_options["transformer_options"]["wrappers"].values():
        kinds.pop(KEY, None)
    patch.add_all(model, [patch.Changes(lora.changes, lora.file, lora.identity) for lora in loras])


def as_patches(owner):
    """A MODEL or CLIP whose weights are all that acts: itself, or a clone that has patches in place of live LoRAs; None for none.

    Raises StrataError for live LoRAs that patches cannot be.
    """
    patcher = getattr(owner, "patcher", owner)
    if patcher is None or not loras_of(patcher):
        return owner
    clone = owner.clone()
    into_patches(getattr(clone, "patcher", clone))
    return clone


def where_order_matters(model, changes: Changes) -> Changes:
    """Of changes that are to be patched: those of weights that live LoRAs of this MODEL change before them, where one of the two reads
    the weight. Patched they would come first, and the sum would not be the same."""
    reads: dict[str, bool] = {}
    for lora in loras_of(model):
        for key, terms in lora.changes.items():
            name = taken_apart(key)[0]
            reads[name] = reads.get(name, False) or _reads(terms)
    if not reads:
        return {}
    return {
        key: terms
        for key, terms in changes.items()
        if (name := taken_apart(key)[0]) in reads and (reads[name] or _reads(terms))
    }


def _reads(terms) -> bool:
    return any(adapter.needs_weight for _, adapter in terms)


def _refuse_too_large(lora: LiveLora) -> None:
    most = furthest(lora.keyframes) * max(map(abs, lora.prompts))
    for key, terms in lora.changes.items():
        products = [(abs(c) * most, adapter) for c, adapter in terms if adapter.is_product]
        if sum(c * adapter.reach for c, adapter in products) <= patch.SAFE:
            continue
        # What may be too large is looked at, once for a file. Of other algorithms the run itself does so.
        if not sum(c * _largest(adapter) for c, adapter in products) <= patch.LARGEST:
            raise patch.too_large([lora.file], taken_apart(key)[0])


_extents: WeakKeyDictionary[Adapter, float] = WeakKeyDictionary()


def _largest(adapter: Adapter) -> float:
    """The largest number of a product's change at strength 1."""
    if adapter not in _extents:
        up, down, scale = adapter.product(torch.float32)
        _extents[adapter] = abs(scale) * max(
            (largest(part @ down) for part in up.split(1024)), default=0.0, key=_nan_last
        )
    return _extents[adapter]


def _nan_last(number: float) -> float:
    return math.inf if math.isnan(number) else number


class Live:
    """The live LoRAs of a MODEL. Never changes, and is shared by all its clones."""

    def __init__(self, loras: tuple[LiveLora, ...]):
        self.loras = loras

    def outer_sample(self, executor, *args, **kwargs):
        """Around a whole sampling run: what this wrapper starts ends here, come what may."""
        guider, preparing = executor.class_obj, _wrapper_kinds().PREPARE_SAMPLING
        # The sampler made a copy for this run.
        wrappers = guider.model_options["transformer_options"]["wrappers"]
        wrappers[preparing] = dict(wrappers.get(preparing, {}))
        if is_compiled(guider.model_patcher, guider.model_options):
            del wrappers[preparing][KEY]
            return self._patched(guider, executor, *args, **kwargs)
        run = Run(self.loras, guider)
        wrappers[preparing][KEY] = [run.prepare_sampling]
        try:
            return executor(*args, **kwargs)
        finally:
            run.stop()

    def prepare_sampling(self, executor, model, *args, **kwargs):
        """For a model that is loaded for another one's sampling (the negative of "Dual Model CFG Guider"): ends with its clean-up."""
        if is_compiled(model, model.model_options):
            raise StrataError(f"{COMPILED} Set the LoRA Loader to apply = patch, or remove torch.compile.")
        run, ending = Run(self.loras), need("comfy.patcher_extension", "CallbacksMP", "apply = live").ON_CLEANUP

        def stop(patcher) -> None:
            patcher.remove_callbacks_with_key(ending, KEY)
            run.stop()

        result = run.prepare_sampling(executor, model, *args, **kwargs)
        model.add_callback_with_key(ending, KEY, stop)
        return result

    def _patched(self, guider, executor, *args, **kwargs):
        """The same LoRAs as patches, for a compiled model: it would run the code from before the hooks."""
        if not all(lora.is_patchable for lora in self.loras):
            what = "mask" if all(lora.is_constant for lora in self.loras) else "keyframes"
            what = next((f"T-LoRA {lora.file}" for lora in self.loras if lora.varies), what)
            raise StrataError(f"{COMPILED} Disconnect the {what} or remove torch.compile.")
        logging.warning("[Strata] %s They are patched for this run instead.", COMPILED)
        original = guider.model_patcher
        patched = original.clone()
        into_patches(patched)
        guider.model_patcher = patched
        try:
            return executor(*args, **kwargs)
        finally:
            guider.model_patcher = original


def is_compiled(model, model_options: Mapping | None = None) -> bool:
    """Whether torch.compile is applied to a MODEL in any of the ways that are in use: the whole model, object patches, single layers."""
    options = model.model_options if model_options is None else model_options
    applying = _wrapper_kinds().APPLY_MODEL
    wrappers = (options.get("transformer_options", {}).get("wrappers", {}), model.wrappers)
    if any("compile" in str(key) for kinds in wrappers for key in kinds.get(applying, {})):
        return True
    return any(_is_compiled(part) for part in (*model.object_patches.values(), *model.model.modules()))


def _is_compiled(part) -> bool:
    return (
        # Its name, as asking torch for the class would import its compiler.
        type(part).__name__ == "OptimizedModule"
        or "_torchdynamo_orig_callable" in getattr(part, "__dict__", ())
        or getattr(part, "_compiled_call_impl", None) is not None
    )
