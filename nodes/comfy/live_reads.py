"""Layers whose weight a model takes past the layer's own call, where no forward hook sees it.

``comfy.ops.linear_input_act`` does so for int8 layers (the MLPs of MiniMax H3 in ComfyUI 0.30, of Wan and LTX from 0.33 on): it reads
``linear.weight`` and runs a kernel of its own. Whoever else does it is found in the same way: in a call of the model, the layer's hook
did not fire and its weight was read. The layer's change is then added to the weight each time that ComfyUI hands it out, by the list of
functions (``weight_function``) that ComfyUI itself uses for patches under little memory, and that call of the model is made anew.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from torch import Tensor, nn

# Functions of comfy.ops and comfy.model_prefetch that read weights ahead of their use, also those of layers that then do not run.
_AHEAD = frozenset({"cast_modules_with_vbar", "prefetch_queue_pop", "materialize_meta_param"})
_lock = threading.Lock()


class Watched(dict):
    """A module's parameters by name, knowing which threads have read the weight since their last ``forget``."""

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        self.readers: set[int] = set()
        self.users = 0

    def __getitem__(self, name: str):
        thread = threading.get_ident()
        # Frame 1 is nn.Module.__getattr__, 2 whoever asks it.
        if name == "weight" and thread not in self.readers and sys._getframe(2).f_code.co_name not in _AHEAD:
            self.readers.add(thread)
        return super().__getitem__(name)

    def forget(self) -> None:
        self.readers.discard(threading.get_ident())

    def was_read(self) -> bool:
        return threading.get_ident() in self.readers


def watch(module: nn.Module) -> Watched:
    """Starts to notice who reads ``module.weight``; several runs may watch one module."""
    with _lock:
        if not isinstance(module._parameters, Watched):
            module._parameters = Watched(module._parameters)
        module._parameters.users += 1
        return module._parameters


def unwatch(module: nn.Module) -> None:
    with _lock:
        watched = module._parameters
        watched.users -= 1
        if not watched.users:
            module._parameters = dict(watched)


class Handed:
    """A change of what ComfyUI hands out as a layer's weight or bias, until ``remove``.

    change: the parameter in the type of the computation -> a new tensor.
    """

    def __init__(self, module: nn.Module, parameter: str, change: Callable[[Tensor], Tensor]):
        self.module, self.change, self.used = module, change, False
        self.list = f"{parameter}_function"
        setattr(module, self.list, [*getattr(module, self.list, ()), self])

    def __call__(self, parameter: Tensor) -> Tensor:
        self.used = True
        return self.change(parameter)

    def remove(self) -> None:
        setattr(self.module, self.list, [each for each in getattr(self.module, self.list) if each is not self])
