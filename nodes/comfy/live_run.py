"""One sampling run of a model with live LoRAs: its factors on the device, its hooks on the layers, its strengths over time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...lora_math import stack
from ...lora_math.adapters import Adapter
from ...lora_math.errors import StrataError
from ...lora_math.fuse import Term
from ...lora_math.gains import Gains
from ...lora_math.stack import LiveTerm
from ...lora_math.wording import some
from .internals import need
from .live_hooks import Follower, Hook, dtype_of, followers, prepared_term
from .live_layers import current, describe, layers_of
from .live_regions import ARGUMENT, Regions, hand_over, taken_out, unused
from .live_time import Clock, Prompts, of_samples
from .notices import tell
from .patch import SAFE
from .targets import Key, taken_apart

if TYPE_CHECKING:
    from .live_time import Time

_running: WeakKeyDictionary[nn.Module, list[Run]] = WeakKeyDictionary()
_lock = threading.Lock()


# Patch key -> its (coefficient, adapter) in order.
Changes = Mapping[Key, Sequence[Term]]


@dataclass(frozen=True, eq=False)
class LiveLora:
    """One loader's LoRA.

    identity: the same for the same file and settings; keyframes: its strength over time, None for constant; prompts: what that is
    multiplied by for (the positive, the negative) prompt; file: its name, for messages; node: the loader's id, for what only shows while
    the model samples; mask: [batch, height, width] where in the picture it acts, None for everywhere; on_text: whether it then acts
    fully on text tokens.
    """

    changes: Changes
    identity: str
    keyframes: Time | None = None
    file: str = "a LoRA"
    node: str | None = None
    prompts: tuple[float, float] = (1.0, 1.0)
    mask: Tensor | None = None
    on_text: bool = False

    @cached_property
    def varies(self) -> bool:
        """Whether it has adapters that vary by themselves."""
        return any(adapter.varies for terms in self.changes.values() for _, adapter in terms)

    @property
    def is_constant(self) -> bool:
        """One strength all the time, for both prompts, of adapters that do not vary by themselves."""
        return self.keyframes is None and self.prompts == (1.0, 1.0) and not self.varies

    @property
    def is_patchable(self) -> bool:
        """Whether patches can be the same."""
        return self.is_constant and self.mask is None


class Run:
    """From ``prepare_sampling`` to ``stop``. Hooks act in the thread that samples only: a model may be in use in another one too."""

    def __init__(self, loras: Sequence[LiveLora], guider=None):
        self.loras, self.prompts = loras, Prompts(guider)
        self.layers = _by_layer(loras)
        self.argument = f"{ARGUMENT}_{id(self)}"
        self.masked = frozenset(group for group, lora in enumerate(loras) if lora.mask is not None)
        self.changing = frozenset(group for group, lora in enumerate(loras) if not lora.is_constant)
        self.thread: int | None = None
        self.copies: list[Copy] = []
        self.clock: Clock | None = None
        terms = [term for of_layer in self.layers.values() for term in of_layer]
        self.varies = any(term.adapter.varies for term in terms)
        self.may_overflow = any(not term.adapter.reach * abs(term.coefficient) <= SAFE for term in terms)

    def prepare_sampling(self, executor, model, *args, **kwargs):
        """Makes room for the factors, lets ComfyUI load the model, and starts."""
        if self.masked:
            self._hand_over(*args, **kwargs)
        device = model.load_device
        if not need("comfy.model_management", "is_device_cpu", "apply = live")(device):
            terms = (term for terms in self.layers.values() for term in terms)
            least = need("comfy.model_management", "minimum_inference_memory", "apply = live on a GPU")()
            room = stack.nbytes(terms, dtype_of(model)) * 1.1 + least
            free_memory = need("comfy.model_management", "free_memory", "apply = live on a GPU")
            free_memory(room, device, for_dynamic=model.is_dynamic())
        # The factors move before the model does, so that ComfyUI sees what is left of the memory when it decides how much to load.
        copy = Copy(self, model)
        result = executor(model, *args, **kwargs)
        try:
            self._start(model, copy)
        except BaseException:
            self.stop()
            raise
        return result

    def _hand_over(self, noise_shape, conds, *_, **__) -> None:
        hand_over(conds, noise_shape, [lora.mask for lora in self.loras], self.argument)
        for group in self.masked:
            lora = self.loras[group]
            if why := unused(lora.mask, noise_shape):
                tell(lora.node, f"{lora.file}: {why}")

    def stop(self) -> None:
        """Takes every hook off and lets go of the factors. May be called twice."""
        for copy in self.copies:
            copy.stop()
        with _lock:
            for copy in self.copies:
                _running.get(copy.model, []).remove(self)
        self.copies = []

    def acts(self) -> bool:
        return self.thread is None or self.thread == threading.get_ident()

    def _start(self, patcher, copy: Copy) -> None:
        others = patcher.get_additional_models_with_key("multigpu")
        # With several GPUs every model has its own worker thread, and no one else has them.
        if not others:
            self.thread = threading.get_ident()
        if self.changing:
            self.clock = Clock([lora.keyframes for lora in self.loras], patcher.model)
        for each in (patcher, *others):
            one = copy if each is patcher else Copy(self, each)
            with _lock:
                running = _running.setdefault(each.model, [])
                if any(run.thread == self.thread for run in running):
                    raise StrataError(
                        "Two live LoRAs on clones of one model cannot be told apart within one sampling. "
                        "Set both LoRA Loaders to apply = patch, or load the model twice."
                    )
                running.append(self)
                self.copies.append(one)
            one.start()

    def now(self, options: Mapping, samples: int) -> tuple[Tensor, float]:
        """For a call of the model: strengths [groups] or [samples, groups], and the timestep as ``Adapter.columns_at`` counts it."""
        # The copies of several GPUs run at one time.
        with _lock:
            strengths, timestep = self.clock.strengths(options), self.clock.timestep
            rows = self.prompts.rows(options)
        return of_samples(strengths, [lora.prompts for lora in self.loras], rows, samples), timestep


class Copy:
    """One model of a run, with several GPUs one of several: its factors on its device and its hooks."""

    def __init__(self, run: Run, patcher):
        self.run, self.patcher, self.model = run, patcher, patcher.model
        self.gains = Gains()
        self.hooks: list[Hook] = []
        self.handles: list = []
        # Of the call of the model that runs now.
        self.arguments: tuple[tuple, dict] | None = None
        self.finished_calls = 0
        self.followers: list[Follower] = []
        # Of the call of the model that runs now.
        self.regions: Regions | None = None
        self.unplaced: set[str] = set()
        # Calls of the model that the masks did not reach.
        self.without_masks = 0
        layers, device, dtype = layers_of(self.model), patcher.load_device, dtype_of(patcher)
        fixed = frozenset(range(len(run.loras))) - run.changing - run.masked
        for path, terms in run.layers.items():
            module = layers.get(path)
            if module is None:
                raise StrataError(f"The model has no layer {path} any more: set the LoRA Loader to apply = patch.")
            bias = None
            if getattr(module, "bias", None) is not None and any(t.is_bias or not t.adapter.is_product for t in terms):
                bias = current(patcher, f"{path}.bias", device)
            layer = describe(module, bias)

            def prepare(
                term: LiveTerm, adapter: Adapter, earlier: Sequence[LiveTerm], path=path, layer=layer
            ) -> Adapter:
                return prepared_term(term, adapter, earlier, patcher, f"{path}.weight", layer.groups, device)

            steps = stack.build(terms, layer, self.gains, device, dtype, prepare, fixed)
            hook = Hook(self, path, module, steps, bias)
            self.hooks.append(hook)
            self.followers += followers(hook, terms, prepare, run.changing, run.masked, run.loras)
        self.gains.complete(device)
        self.strengths, self.timestep = torch.ones(len(run.loras)), 0.0

    def _follow(self, options: Mapping, samples: int) -> None:
        """The strengths and the moment of a call of the model."""
        strengths, timestep = self.run.now(options, samples)
        stays = strengths.shape == self.strengths.shape and torch.equal(strengths, self.strengths)
        if stays and (timestep == self.timestep or not self.run.varies):
            return
        self.strengths, self.timestep = strengths, timestep
        self.gains.set(strengths, timestep)
        for follower in self.followers:
            follower.follow()

    def strength(self, group: int) -> float:
        """Of a group now. Raises StrataError where it differs between the prompts of this call, or from place to place: then no weight
        can have it."""
        if group in self.run.masked:
            raise StrataError(
                f"{self.run.loras[group].file} has a mask, and this model reads the weight of a layer itself, where no mask can be. "
                "Take the mask away."
            )
        found = self.strengths[..., group].unique()
        if len(found) > 1:
            raise StrataError(
                f"{self.run.loras[group].file} has another strength on the negative prompt, on a layer where that cannot be: its weight is "
                "read by the model itself, or by a DoRA behind it. Give both prompts one strength, or put that DoRA before this LoRA."
            )
        return float(found[0])

    def start(self) -> None:
        for hook in self.hooks:
            hook.start()
        diffusion_model = self.model.diffusion_model
        self.handles = [
            diffusion_model.register_forward_pre_hook(self._before_call, with_kwargs=True),
            diffusion_model.register_forward_hook(self._after_call, with_kwargs=True),
        ]

    def stop(self) -> None:
        for handle in self.handles:
            handle.remove()
        for hook in self.hooks:
            hook.stop()
        if self.finished_calls:
            self._tell_unused()
            self._tell_unplaced()
        self.handles, self.hooks, self.followers, self.gains = [], [], [], Gains()

    def _tell_unused(self) -> None:
        for group, lora in enumerate(self.run.loras):
            own = [hook for hook in self.hooks if any(t.group == group for t in self.run.layers[hook.path])]
            unused = [hook.path for hook in own if not hook.fired]
            if unused:
                tell(
                    lora.node,
                    f"{lora.file}: {len(unused)} of {len(own)} layers with this LoRA did not run in this sampling, so it had no "
                    f"effect there: {some(unused)}",
                )

    def _tell_unplaced(self) -> None:
        for group in self.run.masked:
            own = [path for path in self.unplaced if any(t.group == group for t in self.run.layers[path])]
            if own:
                lora = self.run.loras[group]
                tell(
                    lora.node,
                    f"{lora.file}: the places of {len(own)} layers in the picture are not known, so that its mask could not act there; "
                    f"it changed them as a whole, by the share of the picture that the mask covers: {some(sorted(own))}",
                )
            elif self.without_masks:
                lora = self.run.loras[group]
                tell(
                    lora.node,
                    f"{lora.file}: its mask did not reach the model in {self.without_masks} of {self.finished_calls} calls, as another "
                    "node calls the model in its own way; there it changed the whole picture",
                )

    def _before_call(self, module, args: tuple, kwargs: dict):
        if not self.run.acts():
            return None
        # Of other runs with these conditionings too.
        kwargs, masks = taken_out(kwargs)
        mine = masks.get(self.run.argument)
        on_text = [lora.on_text for lora in self.run.loras]
        self.regions = None if mine is None else Regions(mine, self.model, kwargs, on_text)
        self.without_masks += mine is None and bool(self.run.masked)
        if self.run.changing:
            self._follow(kwargs.get("transformer_options") or {}, len(args[0] if args else kwargs["x"]))
        for hook in self.hooks:
            hook.begin()
        self.arguments = args, _fresh(kwargs)
        return args, kwargs

    def _after_call(self, module, args: tuple, kwargs: dict, output):
        if not self.run.acts() or self.arguments is None:
            return None
        (args, kwargs), self.arguments = self.arguments, None
        past = [hook for hook in self.hooks if hook.was_passed()]
        if past:
            for hook in past:
                hook.go_into_the_weight()
            output = module.forward(*args, **_fresh(kwargs))
            if lost := [hook.path for hook in past if hook.was_passed()]:
                raise StrataError(
                    f"This model takes the weights of {len(lost)} layers in a way that a live LoRA cannot follow ({some(lost)}). "
                    "Set the LoRA Loader to apply = patch."
                )
        if self.run.may_overflow and isinstance(output, Tensor) and not torch.isfinite(output).all():
            self._name_the_culprit(module, args, kwargs)
        if self.regions is not None:
            self.unplaced |= self.regions.unplaced
        self.finished_calls += 1
        return output

    def _name_the_culprit(self, module, args: tuple, kwargs: dict) -> None:
        """Runs the model once more and raises StrataError at the first layer that a LoRA makes infinite. The model may be so by itself."""
        for hook in self.hooks:
            hook.is_checked = True
        try:
            module.forward(*args, **_fresh(kwargs))
        finally:
            for hook in self.hooks:
                hook.is_checked = False


def _fresh(kwargs: dict) -> dict:
    """The arguments of a call of a model for another one: it takes a ControlNet's tensors out of their lists one by one."""
    control = kwargs.get("control")
    if not isinstance(control, dict):
        return kwargs
    copied = {name: list(value) if isinstance(value, list) else value for name, value in control.items()}
    return {**kwargs, "control": copied}


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
