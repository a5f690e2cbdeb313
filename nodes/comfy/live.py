"""LoRAs that run beside the layers while a model samples, instead of being added to its weights.

A live LoRA is two wrappers in the MODEL's options. When a sampling starts they put PyTorch forward hooks on the layers of whatever model
ComfyUI is really sampling, and when it ends, in whatever way, they take them off. The MODEL's patches stay as they are, so ComfyUI sees
the same weights: nothing is loaded, unloaded or patched for another strength.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...lora_math.errors import StrataError
from . import patch
from .internals import need
from .live_run import LiveLora, Run

KEY = "strata_live"
COMPILED = "Live LoRAs do not work on a model under torch.compile."


def attach(model, lora: LiveLora) -> None:
    """Adds a live LoRA to a cloned MODEL, behind those that it has."""
    kinds = _wrapper_kinds()
    wrappers = model.model_options["transformer_options"].setdefault("wrappers", {})
    found = wrappers.get(kinds.OUTER_SAMPLE, {}).get(KEY)
    live = Live((*(found[0].__self__.loras if found else ()), lora))
    wrappers.setdefault(kinds.OUTER_SAMPLE, {})[KEY] = [live.outer_sample]
    wrappers.setdefault(kinds.PREPARE_SAMPLING, {})[KEY] = [live.prepare_sampling]


def _wrapper_kinds():
    return need("comfy.patcher_extension", "WrappersMP", "apply = live")


class Live:
    """The live LoRAs of a MODEL. Never changes, and is shared by all its clones."""

    def __init__(self, loras: tuple[LiveLora, ...]):
        self.loras = loras

    def outer_sample(self, executor, *args, **kwargs):
        """Around a whole sampling run: what this wrapper starts ends here, come what may."""
        guider, preparing = executor.class_obj, _wrapper_kinds().PREPARE_SAMPLING
        wrappers = guider.model_options["transformer_options"]["wrappers"]  # the sampler made a copy for this run
        wrappers[preparing] = dict(wrappers.get(preparing, {}))
        if is_compiled(guider.model_patcher, guider.model_options):
            del wrappers[preparing][KEY]
            return self._patched(guider, executor, *args, **kwargs)
        run = Run(self.loras)
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
        if any(lora.keyframes is not None for lora in self.loras):
            raise StrataError(f"{COMPILED} Disconnect the keyframes or remove torch.compile.")
        logging.warning("[Strata] %s They are patched for this run instead.", COMPILED)
        original = guider.model_patcher
        patched = original.clone()
        for lora in self.loras:
            patch.add(patched, lora.changes, identity=lora.identity)
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
        type(part).__name__ == "OptimizedModule"  # asking torch for the class would import its compiler
        or "_torchdynamo_orig_callable" in getattr(part, "__dict__", ())
        or getattr(part, "_compiled_call_impl", None) is not None
    )
