"""What a live LoRA has at each layer of a model: the hook, and the adapters behind it that follow what the weight becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from ...lora_math import stack
from ...lora_math.adapters import Adapter
from ...lora_math.errors import StrataError
from ...lora_math.stack import LiveTerm, Single, Step
from .live_layers import current, describe
from .live_reads import Handed, unwatch, watch
from .patch import too_large

if TYPE_CHECKING:
    from .live_run import Copy, LiveLora


class Hook:
    """What stands at one layer: a forward hook, or, where the model never calls the layer, a change of what it takes for its weight."""

    def __init__(self, copy: Copy, path: str, module: nn.Module, steps: list[Step], bias: Tensor | None):
        self.copy, self.path, self.module, self.steps, self.bias = copy, path, module, steps, bias
        # In this sampling, and in this call of the model.
        self.fired = self.fires = False
        self.is_checked = False
        self.handed: list[Handed] = []
        self.handle = self.watched = None

    def start(self) -> None:
        self.handle = self.module.register_forward_hook(self, with_kwargs=True)
        self.watched = watch(self.module)

    def stop(self) -> None:
        if self.handle is not None:
            self.handle.remove()
        if self.watched is not None:
            unwatch(self.module)
        for handed in self.handed:
            handed.remove()
        self.handle = self.watched = None
        self.steps, self.handed = [], []

    def begin(self) -> None:
        """A call of the model begins."""
        self.fires = False
        self.watched.forget()
        for handed in self.handed:
            handed.used = False

    def was_passed(self) -> bool:
        """Whether this call of the model used the layer's weight without this LoRA."""
        acted = self.fires or any(handed.used for handed in self.handed)
        return not acted and self.watched.was_read()

    def go_into_the_weight(self) -> None:
        if adding := [t for t in self.copy.run.layers[self.path] if t.adapter.adds_by_itself]:
            raise StrataError(
                f"{self.copy.run.loras[adding[0].group].file} is a {adding[0].adapter.name}, which adds to what a layer computes, and this "
                f"model takes the weight of {self.path} itself, which cannot hold that. Take this LoRA out."
            )
        self.stop_hook()
        terms = [replace(t, adapter=t.adapter.map_tensors(self._here)) for t in self.copy.run.layers[self.path]]
        for parameter, mine in (
            ("weight", [t for t in terms if not t.is_bias]),
            ("bias", [t for t in terms if t.is_bias]),
        ):
            if mine:
                self.handed.append(Handed(self.module, parameter, partial(self._changed, mine)))
        self.begin()
        self.fired = True

    def stop_hook(self) -> None:
        self.handle.remove()
        # ComfyUI has emptied the list that they stood in while it made room.
        for handed in self.handed:
            handed.remove()
        self.handed = []

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.copy.patcher.load_device)

    def _changed(self, terms: Sequence[LiveTerm], parameter: Tensor) -> Tensor:
        if not self.copy.run.acts():
            return parameter
        changed = parameter.to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
        for term in terms:
            strength = self.copy.strength(term.group)
            if strength != 0:
                term.now(strength, self.copy.timestep).apply_(changed, changed.dtype)
        return changed.to(parameter.dtype)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, y: Tensor) -> Tensor | None:
        if not self.copy.run.acts():
            return None
        self.fired = self.fires = True
        x = args[0] if args else kwargs["input"]
        options = {name: value for name, value in kwargs.items() if name != "input"}
        was_finite = self.is_checked and bool(torch.isfinite(y).all())
        layer, regions = describe(module, self.bias, **options), self.copy.regions
        if regions is not None and (where := regions.of(self.path, y, layer.is_conv)) is not None:
            layer = replace(layer, where=where)
        y = stack.run(self.steps, layer, x, y)
        if was_finite and not torch.isfinite(y).all():
            groups = dict.fromkeys(term.group for term in self.copy.run.layers[self.path])
            raise too_large((self.copy.run.loras[group].file for group in groups), f"{self.path}.weight")
        return y


class Follower:
    """An adapter that reads the weight, behind LoRAs whose strength changes: it is prepared anew for the weight that they leave."""

    def __init__(self, copy: Copy, step: Single, earlier: Sequence[LiveTerm], prepare: stack.Prepare):
        self.copy, self.step, self.earlier, self.prepare = copy, step, earlier, prepare
        self.known: list[tuple[float, float | None]] | None = None

    def follow(self) -> None:
        moment = self.copy.timestep
        mine = [(self.copy.strength(t.group), moment if t.adapter.varies else None) for t in self.earlier]
        if mine != self.known:
            scaled = [term.now(strength, moment) for term, (strength, _) in zip(self.earlier, mine, strict=True)]
            term, device, dtype = self.step.term, self.copy.patcher.load_device, dtype_of(self.copy.patcher)
            adapter = term.adapter.map_tensors(lambda tensor: tensor.to(device))
            self.step.adapter = stack.in_dtype(self.prepare(term, adapter, scaled), device, dtype)
            self.known = mine


def followers(
    hook: Hook,
    terms: Sequence[LiveTerm],
    prepare: stack.Prepare,
    changing: frozenset[int],
    masked: frozenset[int],
    loras: Sequence[LiveLora],
) -> list:
    weights, found = [term for term in terms if not term.is_bias], []
    for step in hook.steps:
        if isinstance(step, Single) and step.term.adapter.prepares_from_weight:
            earlier = weights[: weights.index(step.term)]
            if behind := masked.intersection(term.group for term in earlier):
                raise StrataError(
                    f"{loras[step.term.group].file} depends on the weight that {loras[min(behind)].file} leaves before it, and that one "
                    "has a mask: no weight can have it. Put the masked LoRA behind the other one."
                )
            if changing.intersection(term.group for term in earlier):
                found.append(Follower(hook.copy, step, earlier, prepare))
    return found


def dtype_of(patcher) -> torch.dtype:
    """What the model computes in."""
    return patcher.model.get_dtype_inference()


# What adapters have ``observed`` of a weight (DoRA's norms): reading it again at every run would make a moved slider slow.
_read: WeakKeyDictionary[Adapter, tuple] = WeakKeyDictionary()


def prepared_term(term: LiveTerm, adapter: Adapter, earlier, patcher, key: str, groups: int, device) -> Adapter:
    """``adapter.prepared`` for the weight as the model's patches and the terms before leave it."""
    seen = (patcher.patches_uuid, key, *((ref(t.adapter), t.coefficient, t.part) for t in earlier))
    known = _read.get(term.adapter)
    if known is not None and known[0] == seen:
        return adapter.prepared_with(known[1].to(device), groups)
    weight = stack.weight_before(term, earlier, current(patcher, key, device))
    ready = adapter.prepared(weight, groups)
    _read[term.adapter] = (seen, ready.observed.cpu())
    return ready
