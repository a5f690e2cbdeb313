"""One sampling run of a model with live LoRAs: its factors on the device, its hooks on the layers, its strengths over time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import comfy.model_management
import torch
from torch import Tensor, nn

from ...lora_math import stack
from ...lora_math.adapters import Adapter, LoRA
from ...lora_math.errors import StrataError
from ...lora_math.fuse import Term
from ...lora_math.stack import Gains, LiveTerm, Step
from .live_layers import current, describe, layers_of
from .targets import Key, taken_apart

if TYPE_CHECKING:
    import comfy.hooks

_running: WeakKeyDictionary[nn.Module, list[Run]] = WeakKeyDictionary()
_lock = threading.Lock()


Changes = Mapping[Key, Sequence[Term]]  # patch key -> its (coefficient, adapter) in order


@dataclass(frozen=True, eq=False)
class LiveLora:
    """One loader's LoRA. identity: the same for the same file and settings; keyframes: its strength over time, None for constant."""

    changes: Changes
    identity: str
    keyframes: comfy.hooks.HookKeyframeGroup | None = None


class Run:
    """From ``prepare_sampling`` to ``stop``. Hooks act in the thread that samples only: a model may be in use in another one too."""

    def __init__(self, loras: Sequence[LiveLora]):
        self.loras = loras
        self.layers = _by_layer(loras)
        self.thread: int | None = None
        self.handles: list = []
        self.hooks: list[_Hook] = []
        self.gains: list[Gains] = []
        self.keyframes: list = []
        self.models: list[nn.Module] = []
        self.finished_steps = 0

    def prepare_sampling(self, executor, model, *args, **kwargs):
        """Makes room for the factors, lets ComfyUI load the model, and starts."""
        device = model.load_device
        if device.type != "cpu":
            terms = (term for terms in self.layers.values() for term in terms)
            room = stack.nbytes(terms, _dtype(model)) * 1.1 + comfy.model_management.minimum_inference_memory()
            comfy.model_management.free_memory(room, device, for_dynamic=model.is_dynamic())
        # The factors move before the model does, so that ComfyUI sees what is left of the memory when it decides how much to load.
        ready = self._build(model, model.load_device)
        result = executor(model, *args, **kwargs)
        try:
            self._start(model, ready)
        except BaseException:
            self.stop()
            raise
        return result

    def stop(self) -> None:
        """Takes every hook off and lets go of the factors. May be called twice."""
        for handle in self.handles:
            handle.remove()
        with _lock:
            for model in self.models:
                _running.get(model, []).remove(self)
        unused = [hook.path for hook in self.hooks if not hook.fired]
        if self.finished_steps and unused:
            logging.warning(
                "[Strata] %d of %d layers with live LoRAs did not run in this sampling, so their LoRAs had no effect: %s%s",
                *(len(unused), len(self.hooks), ", ".join(unused[:3]), " ..." if len(unused) > 3 else ""),
            )
        for hook in self.hooks:
            hook.steps = []
        self.handles, self.hooks, self.gains, self.models = [], [], [], []

    def _build(self, patcher, device: torch.device) -> list[tuple[str, list[Step], Tensor | None]]:
        """(layer, its steps, its bias where they need it) for every layer, with the factors on the device."""
        gains, ready, dtype = Gains(), [], _dtype(patcher)
        layers = layers_of(patcher.model)
        for path, terms in self.layers.items():
            module = layers.get(path)
            if module is None:
                raise StrataError(f"The model has no layer {path} any more: set the LoRA Loader to apply = patch.")
            bias = None
            if getattr(module, "bias", None) is not None and any(
                t.is_bias or not isinstance(t.adapter, LoRA) for t in terms
            ):
                bias = current(patcher, f"{path}.bias", device)
            layer = describe(module, bias)

            def prepare(
                term: LiveTerm, adapter: Adapter, earlier: Sequence[LiveTerm], path=path, layer=layer
            ) -> Adapter:
                return _prepared(term, adapter, earlier, patcher, f"{path}.weight", layer.groups, device)

            ready.append((path, stack.build(terms, layer, gains, device, dtype, prepare), bias))
        gains.complete(device)
        self.gains.append(gains)
        return ready

    def _start(self, patcher, ready) -> None:
        others = patcher.get_additional_models_with_key("multigpu")
        if not others:  # with several GPUs every model has its own worker thread, and no one else has them
            self.thread = threading.get_ident()
        self.keyframes = [lora.keyframes and lora.keyframes.clone() for lora in self.loras]
        for group in self.keyframes:
            if group is not None:
                group.reset()
                group.initialize_timesteps(patcher.model)
        for each in (patcher, *others):
            layers = ready if each is patcher else self._build(each, each.load_device)
            self._hook(each.model, layers)
        self._set_strengths()

    def _hook(self, model: nn.Module, ready) -> None:
        with _lock:
            running = _running.setdefault(model, [])
            if any(run.thread == self.thread for run in running):
                raise StrataError(
                    "Two live LoRAs on clones of one model cannot be told apart within one sampling. "
                    "Set both LoRA Loaders to apply = patch, or load the model twice."
                )
            running.append(self)
            self.models.append(model)
        layers = layers_of(model)
        for path, steps, bias in ready:
            hook = _Hook(self, path, steps, bias)
            self.hooks.append(hook)
            self.handles.append(layers[path].register_forward_hook(hook, with_kwargs=True))
        diffusion_model = model.diffusion_model
        if any(group is not None for group in self.keyframes):
            self.handles.append(diffusion_model.register_forward_pre_hook(self._before_step, with_kwargs=True))
        self.handles.append(diffusion_model.register_forward_hook(self._after_step))

    def acts(self) -> bool:
        return self.thread is None or self.thread == threading.get_ident()

    def _before_step(self, module, args, kwargs) -> None:
        """Follows the keyframes as ComfyUI's own hooks do: by the sigma of this step."""
        options = kwargs.get("transformer_options") or {}
        if not self.acts() or "sigmas" not in options or "sample_sigmas" not in options:
            return
        sigma = float(options["sigmas"].max())
        with _lock:
            before = [group and group.strength for group in self.keyframes]
            for group in self.keyframes:
                if group is not None:
                    group.prepare_current_keyframe(sigma, options)
            if [group and group.strength for group in self.keyframes] != before:
                self._set_strengths()

    def _after_step(self, module, args, output) -> None:
        self.finished_steps += self.acts()

    def _set_strengths(self) -> None:
        strengths = [1.0 if group is None else float(group.strength) for group in self.keyframes]
        for gains in self.gains:
            gains.set(strengths)


class _Hook:
    """The forward hook of one layer."""

    def __init__(self, run: Run, path: str, steps: list[Step], bias: Tensor | None):
        self.run, self.path, self.steps, self.bias = run, path, steps, bias
        self.fired = False

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, y: Tensor) -> Tensor | None:
        if not self.run.acts():
            return None
        self.fired = True
        x = args[0] if args else kwargs["input"]
        options = {name: value for name, value in kwargs.items() if name != "input"}
        return stack.run(self.steps, describe(module, self.bias, **options), x, y)


def _by_layer(loras: Sequence[LiveLora]) -> dict[str, list[LiveTerm]]:
    """layer name -> its terms, those of the first loader first."""
    layers: dict[str, list[LiveTerm]] = {}
    for group, lora in enumerate(loras):
        for key, terms in lora.changes.items():
            name, part, rows = taken_apart(key)
            path, _, parameter = name.rpartition(".")
            layers.setdefault(path, []).extend(
                LiveTerm(coefficient, adapter, part, rows, parameter == "bias", group) for coefficient, adapter in terms
            )
    return layers


def _dtype(patcher) -> torch.dtype:
    """What the model computes in."""
    return patcher.model.get_dtype_inference()


# What an adapter has read off a weight (DoRA's norms): reading it again at every run would make a moved slider slow.
_read: WeakKeyDictionary[Adapter, tuple] = WeakKeyDictionary()


def _prepared(term: LiveTerm, adapter: Adapter, earlier, patcher, key: str, groups: int, device) -> Adapter:
    """``adapter.prepared`` for the weight as the model's patches and the terms before leave it."""
    seen = (patcher.patches_uuid, key, *((ref(t.adapter), t.coefficient, t.part) for t in earlier))
    known = _read.get(term.adapter)
    if known is not None and known[0] == seen:
        return replace(adapter, c=known[1].to(device)).prepared(torch.empty(0, device="meta"), groups)
    weight = stack.weight_before(term, earlier, current(patcher, key, device))
    ready = adapter.prepared(weight, groups)
    _read[term.adapter] = (seen, ready.c.cpu())
    return ready
