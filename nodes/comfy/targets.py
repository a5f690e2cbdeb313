"""Which weight of the loaded model a LoRA's module name means.

The names come from ComfyUI's own key maps, so every family that it knows works here, plus the spellings that those maps lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple
from weakref import WeakKeyDictionary

import comfy.lora
import torch

from ...lora_math import families, family, names, spellings
from ...lora_math.adapters import Adapter
from .internals import find
from .magnitudes import Magnitude, is_quantized, magnitudes

Shape = tuple[int, ...]
# A state-dict key, or (key, (axis, start, length)[, row map]) for a part of a weight.
Key = str | tuple
# Usually one; several where a LoRA has as one layer what the model has apart, in the order of its rows.
Keys = tuple[Key, ...]
Fits = Callable[[Shape], bool]


def taken_apart(key: Key) -> tuple[str, tuple[int, int, int] | None, Callable | None]:
    """(state-dict key, (axis, start, length) or None, row map or None) of a patch key."""
    return (key, None, None) if isinstance(key, str) else (*key, None)[:3]


class Target(NamedTuple):
    """One weight, or a slice of one. ``patch_key`` is what ``ModelPatcher.add_patches`` takes; ``shape`` that of the slice.

    part: (start, length, total) of the rows of the LoRA's change that belong here; None for all of them.
    """

    patch_key: Key
    shape: Shape
    part: tuple[int, int, int] | None = None

    @property
    def key(self) -> str:
        return _weight(self.patch_key)

    @property
    def rows(self) -> Callable | None:
        """The reordering that ComfyUI will apply to the delta, if any."""
        return self.patch_key[2] if isinstance(self.patch_key, tuple) and len(self.patch_key) > 2 else None

    def of(self, adapter: Adapter) -> Adapter | None:
        """What of ``adapter`` belongs here; None where it cannot be taken apart."""
        part = adapter if self.part is None else adapter.cut(*self.part)
        return None if part is None else part.meeting(self.shape, self.key.endswith(".bias"))


@dataclass(frozen=True, eq=False)
class Targets:
    """Every name that a LoRA may call this model's weights by. Holds no reference to the model.

    names: whole module names, as ComfyUI maps them; encoders: by a text encoder's body, then by encoder, empty for a diffusion model.
    family: of ``lora_math.families``, or another name of the model to show; certain: whether ComfyUI's own class says that it is this
    family: only then may it be a reason to refuse a file.
    coarse: weights that are stored in 8 bits or fewer, to which ComfyUI rounds them again when they are patched.
    """

    names: Mapping[str, Key]
    encoders: Mapping[str, Mapping[str, Key]]
    shapes: Mapping[str, Shape]
    family: str | None
    certain: bool = False
    coarse: frozenset[str] = frozenset()
    # One, once it is known.
    _magnitudes: list[Mapping[str, Magnitude]] = field(default_factory=list, repr=False)

    @cached_property
    def bodies(self) -> Mapping[str, Keys]:
        """A diffusion model's layers by ``names.model_body``, for names that ComfyUI's map lacks; most files have none of those."""
        return {} if self.encoders else _bodies(self.names, self.shapes, self.family)

    @property
    def measured(self) -> bool:
        return bool(self._magnitudes)

    def measure(self, model) -> None:
        """Learns how large the weights of a MODEL or CLIP are; once. Takes a tenth of a second for SDXL."""
        if not self.measured:
            self._magnitudes.append(magnitudes(getattr(model, "patcher", model)))

    def squared_norm(self, target: Target) -> float | None:
        """Of the model's own weight, or the part of it that the target is; None where nothing was measured."""
        key, part, _ = taken_apart(target.patch_key)
        magnitude = self._magnitudes[0].get(key) if self.measured else None
        # Columns are everywhere in the weight: they count as the average of all.
        start = part[1] * prod(target.shape[1:]) if part is not None and part[0] == 0 else 0
        return None if magnitude is None else magnitude.squared_norm(target.shape, start)

    def find(self, module: str, parameter: str, fits: Fits | None = None) -> tuple[Target, ...]:
        """The weight or bias that ``module`` means: empty when this model has none of that name, several for what it has in parts.

        fits: whether a shape can be meant. Only asked where the name leaves two text encoders open.
        """
        keys = self._keys(module)
        if len(keys) == 1:
            target = self._target(keys[0], parameter)
            return () if target is None else (target,)
        if keys and self.encoders:
            targets = (self._target(key, parameter) for key in keys)
            return next(((t,) for t in targets if t is not None and (fits is None or fits(t.shape))), ())
        return self._in_parts(keys, parameter)

    def knows_only_as_alias(self, module: str) -> bool:
        """Whether ComfyUI's own loader would not find this name."""
        return module not in self.names

    def _keys(self, module: str) -> Keys:
        key = self.names.get(module)
        if key is not None:
            return (key,)
        if not self.encoders:
            return self.bodies.get(names.model_body(module), ())
        name = names.read(module)
        return _encoder_keys(self.encoders.get(name.body, {}), name) if name.text else ()

    def _target(self, key: Key, parameter: str) -> Target | None:
        if parameter == "bias":
            key = _bias(key)
        shape = _sliced(key, self.shapes)
        return None if shape is None else Target(key, shape)

    def _in_parts(self, keys: Keys, parameter: str) -> tuple[Target, ...]:
        targets = [self._target(key, parameter) for key in keys]
        if None in targets:
            return ()
        total, start, found = sum(target.shape[0] for target in targets), 0, []
        for target in targets:
            length = target.shape[0]
            found.append(Target(target.patch_key, target.shape, (start, length, total)))
            start += length
        return tuple(found)


_known: WeakKeyDictionary[torch.nn.Module, Targets] = WeakKeyDictionary()


def model_targets(model) -> Targets:
    """Targets of a MODEL (a ModelPatcher). Built once for a loaded model, for all its clones."""
    found = _known.get(model.model)
    if found is None:
        parameters = dict(model.model.named_parameters(remove_duplicate=False))
        shapes = _shapes(model, model.model, parameters)
        name, certain = _family(model.model, shapes)
        known = _valid(comfy.lora.model_lora_keys_unet(model.model, {}), shapes)
        found = _known[model.model] = Targets(known, {}, shapes, name, certain, _coarse(parameters))
    return found


def clip_targets(clip) -> Targets:
    """Targets of a CLIP. Built once for a loaded set of text encoders, for all its clones."""
    module = clip.cond_stage_model
    found = _known.get(module)
    if found is None:
        shapes = _shapes(clip.patcher, module, dict(module.named_parameters(remove_duplicate=False)))
        known = _valid(comfy.lora.model_lora_keys_clip(module, {}), shapes)
        found = _known[module] = Targets(known, _encoders(shapes), shapes, None)
    return found


def _shapes(patcher, module: torch.nn.Module, parameters: Mapping[str, torch.Tensor]) -> dict[str, Shape]:
    # Of the tensors themselves: a weight that is stored packed (NVFP4, GGUF) is bytes in the state dict, with its scales beside it.
    tensors = {**dict(module.named_buffers(remove_duplicate=False)), **parameters}
    shapes = {key: _shape(tensors[key]) for key in module.state_dict(keep_vars=True) if key in tensors}
    # A padding LoRA that is applied right now has widened the live weight: the backup has the model's own shape.
    shapes.update((key, _shape(saved.weight)) for key, saved in patcher.backup.items())
    return shapes


def _coarse(parameters: Mapping[str, torch.Tensor]) -> frozenset[str]:
    def tells(weight) -> bool:
        return is_quantized(weight) or (weight.dtype.is_floating_point and weight.dtype.itemsize == 1)

    return frozenset(key for key, weight in parameters.items() if tells(weight))


def _shape(weight) -> Shape:
    # GGUF's weights carry the real shape beside them.
    return tuple(getattr(weight, "tensor_shape", weight.shape))


def _valid(known: Mapping[str, Key], shapes: Mapping[str, Shape]) -> dict[str, Key]:
    """ComfyUI's map without what it names in vain: layers that this model lacks, rows beyond a weight's end (Lumina's narrow k, v)."""
    return {name: key for name, key in known.items() if _sliced(key, shapes) is not None}


def _sliced(key: Key, shapes: Mapping[str, Shape]) -> Shape | None:
    """Shape of the weight, or the part of it, that a key names; None where the model has no such thing."""
    shape = shapes.get(_weight(key))
    if shape is None or isinstance(key, str) or key[1] is None:
        return shape
    axis, start, length = key[1]
    if axis >= len(shape) or start + length > shape[axis]:
        return None
    return (*shape[:axis], length, *shape[axis + 1 :])


_DIFFUSION = "diffusion_model."


def _bodies(known: Mapping[str, Key], shapes: Mapping[str, Shape], family_name: str | None) -> dict[str, Keys]:
    """Layers by body, the surest source first: the model's own names, ComfyUI's other names for them, the dialects of the family."""
    bodies: dict[str, Keys] = {}
    dialects = families.FAMILIES[family_name].dialects if family_name in families.FAMILIES else ()
    layers = {key.removeprefix(_DIFFUSION).removesuffix(".weight"): key for key in shapes if key.startswith(_DIFFUSION)}
    for layer, key in layers.items():
        bodies.setdefault(names.plain(layer), (key,))
    for layer, key in layers.items():
        # A name like "transformer.layers" looks like a wrapper.
        bodies.setdefault(names.model_body(_DIFFUSION + layer), (key,))
    for name, key in known.items():
        bodies.setdefault(names.model_body(name), (key,))
    for layer, key in layers.items():
        for part in spellings.other_names(dialects, layer, shapes[key]):
            if (part_key := _part_key(key, part)) is not None:
                bodies.setdefault(names.plain(part.name), (part_key,))
    for body, keys in list(bodies.items()):
        # Old attention processors had no list there.
        if body.endswith("_to_out_0"):
            bodies.setdefault(body[: -len("_0")], keys)
    for body, keys in list(_fused(bodies, shapes)):
        bodies.setdefault(body, keys)
    return bodies


def _part_key(key: str, part: spellings.Part) -> Key | None:
    """The patch key of a part; None where ComfyUI lacks the function that brings its halves into the model's order."""
    if part.swapped:
        swap = find(
            "comfy.utils", "swap_scale_shift", "LoRAs on the last modulation layer, by diffusers' name, do not find it."
        )
        return None if swap is None else (key, None, swap)
    return key if part.start is None else (key, (0, part.start, part.length))


_SPLIT = (("_to_q", "_to_k", "_to_v", "_to_qkv"), ("_add_q_proj", "_add_k_proj", "_add_v_proj", "_to_added_qkv"))


def _fused(bodies: Mapping[str, Keys], shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Keys]]:
    """q, k and v under diffusers' name for the three as one (``fuse_qkv_projections``)."""
    for q, k, v, fused in _SPLIT:
        for body in bodies:
            if body.endswith(q):
                stem = body.removesuffix(q)
                parts = [bodies.get(stem + end, ()) for end in (q, k, v)]
                if all(len(part) == 1 for part in parts):
                    yield stem + fused, _joined([part[0] for part in parts], shapes)


def _joined(keys: list[Key], shapes: Mapping[str, Shape]) -> Keys:
    """Adjoining slices of one weight as one slice, or the keys as they are."""
    weight = _weight(keys[0])
    start = length = 0
    for i, key in enumerate(keys):
        if (
            isinstance(key, str)
            or key[1] is None
            or key[0] != weight
            or key[1][0] != 0
            or (i and key[1][1] != start + length)
        ):
            return tuple(keys)
        start, length = (key[1][1] if i == 0 else start), length + key[1][2]
    return (weight,) if length == shapes[weight][0] else ((weight, (0, start, length)),)


def _encoders(shapes: Mapping[str, Shape]) -> dict[str, dict[str, Key]]:
    found: dict[str, dict[str, Key]] = {}
    for key in shapes:
        if key.endswith(".weight"):
            layer = names.read(f"text_encoders.{key.removesuffix('.weight')}")
            found.setdefault(layer.body, {}).setdefault(key.split(".", 1)[0], key)
    return found


def _encoder_keys(by_encoder: Mapping[str, Key], name: names.ModuleName) -> Keys:
    """The layer in the encoder that the name speaks of, else in every one that has such a layer.

    A number counts encoders that are built alike: T5 is the only T5 whether a trainer calls it the second or the third.
    """
    if name.encoder is not None:
        return tuple(key for encoder, key in by_encoder.items() if encoder.startswith(name.encoder))
    keys = tuple(by_encoder.values())
    if name.number is None or len(keys) < 2:
        return keys
    return keys[name.number - 1 : name.number]


def _weight(key: Key) -> str:
    return key if isinstance(key, str) else key[0]


def _bias(key: Key) -> Key:
    name = _weight(key)
    bias = name[: -len("weight")] + "bias" if name.endswith(".weight") else name
    if isinstance(key, str):
        return bias
    # The rows of a fused weight are the entries of its bias; columns have none of their own.
    return (bias, *key[1:]) if key[1] is None or key[1][0] == 0 else bias


# Configurations that stand for no model in particular.
_NAMELESS = ("NoneType", "BASE")


def model_family(model: torch.nn.Module) -> str | None:
    """The family of a loaded model, by the name of its configuration in ``comfy.supported_models``; None for one that no family names."""
    return families.of_class(type(getattr(model, "model_config", None)).__name__)


def _family(model: torch.nn.Module, shapes: Mapping[str, Shape]) -> tuple[str | None, bool]:
    """(the family, or a title where there is none; whether ComfyUI's class says so rather than the look of the layers)."""
    by_class = model_family(model)
    if by_class is not None:
        return by_class, True
    layers = {
        names.plain(key.removeprefix(_DIFFUSION).removesuffix(".weight")): (shape[0], prod(shape[1:]))
        for key, shape in shapes.items()
        if key.startswith(_DIFFUSION) and key.endswith(".weight") and len(shape) > 1
    }
    found = family.guess_of(layers).family
    if found is not None:
        return found, False
    title = type(getattr(model, "model_config", None)).__name__
    return (None if title in _NAMELESS else title), False
