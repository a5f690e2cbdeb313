"""Faults on purpose, and a model under watch: whatever happened to it, has it come back?"""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from strata.nodes.comfy import live_run
from strata.nodes.comfy.library import CACHE
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import sampling

MODES = ("patch", "live")


class Injected(Exception):
    """What no code expects."""


INTERRUPT = comfy.model_management.InterruptProcessingException  # a BaseException: passes every "except Exception"
ERRORS = (Injected, INTERRUPT, torch.OutOfMemoryError)


def interrupt() -> None:
    """What POST /interrupt does: ComfyUI raises at the next layer that runs."""
    comfy.model_management.interrupt_current_processing()


class Fault:
    """Stands in for one function: at its call number ``at`` something happens instead of it, or before it where that raises nothing."""

    def __init__(self, monkeypatch, owner, name: str, what: Callable, at: int = 1):
        original = getattr(owner, name)
        self.calls = 0

        def stand_in(*args, **kwargs):
            self.calls += 1
            if self.calls == at:
                _happen(what)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, stand_in)


def _happen(what: Callable) -> None:
    if isinstance(what, type):
        raise what("injected")
    what()


class AtKernel(TorchDispatchMode):
    """Raises instead of torch's operation number ``at`` of this thread, views not counted: as when that one finds no memory. 0 only
    counts. A softmax is spared for the next one, as ComfyUI's attention finds another way for it."""

    def __init__(self, at: int = 0, error: type[BaseException] = torch.OutOfMemoryError):
        super().__init__()
        self.at, self.error, self.kernels = at, error, 0
        self.waits = at > 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.kernels += not func.is_view
        if self.waits and self.kernels >= self.at and not func.is_view and "softmax" not in func.name():
            self.waits = False
            raise self.error("injected")
        return func(*args, **(kwargs or {}))


class Watched:
    """A model, a LoRA file for it, and what a run with and without it gives while nothing has gone wrong."""

    def __init__(self, model, family: str, lora: str):
        self.model, self.family, self.lora = model, family, lora
        self.weights = {key: value.clone() for key, value in model.model.state_dict().items()}
        self.options = self._options()
        self.expected = {None: self.run(None), **{apply: self.run(apply) for apply in MODES}}
        assert not torch.equal(self.expected[None], self.expected["patch"])

    def loaded(self, apply: str | None, strength: float = 0.8, **settings):
        if apply is None:
            return self.model
        return StrataLoraLoader.execute(self.lora, strength, 0.0, model=self.model, apply=apply, **settings).result[0]

    def run(self, apply: str | None, strength: float = 0.8, **settings) -> torch.Tensor:
        return sampling.sample(self.loaded(apply, strength, **settings), self.family)

    def check(self, order=(None, "patch", "live")) -> None:
        """No trace of a fault: in the next runs, in the model's modules and options, in ComfyUI's list of models, in our caches."""
        assert self.hooks() == 0
        assert not any(live_run._running.values())
        assert not CACHE._reading
        assert self._options() == self.options
        for apply in order:
            assert torch.equal(self.run(apply), self.expected[apply]), f"the next run ({apply}) is not as before"
            assert [m.model.model for m in comfy.model_management.current_loaded_models] == [self.model.model]
            assert self.hooks() == 0
        sampling.unload()
        self.check_weights()

    def check_weights(self) -> None:
        """Of an unloaded model: bit for bit, and nothing that a loading put on a layer."""
        assert not comfy.model_management.current_loaded_models
        assert not self.model.backup
        now = self.model.model.state_dict()
        assert now.keys() == self.weights.keys()
        changed = [key for key, value in self.weights.items() if not torch.equal(value, now[key])]
        assert not changed, changed[:3]
        for name, module in self.model.model.named_modules():
            assert not getattr(module, "weight_function", None), name
            assert not getattr(module, "bias_function", None), name
            assert not getattr(module, "comfy_patched_weights", False), name
            assert not hasattr(module, "prev_comfy_cast_weights"), name

    def hooks(self) -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.model.modules())

    def _options(self) -> str:
        return str((self.model.model_options, self.model.wrappers, self.model.callbacks, list(self.model.patches)))


class Cramped(comfy.model_patcher.ModelPatcher):
    """On a device that has too little room: layers that do not fit are patched anew in each of their forwards.

    On a CPU ComfyUI always loads the whole, however little memory there is, so the real method gets another number of bytes.
    """

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        room = self.model_size() * 9 // 10 - self.model.model_loaded_weight_memory
        return super().partially_load(device_to, room, force_patch_weights)


def cramp(patcher) -> None:
    """From now on this ModelPatcher, and every clone of it, finds too little room."""
    assert type(patcher) is comfy.model_patcher.ModelPatcher
    patcher.__class__ = Cramped
