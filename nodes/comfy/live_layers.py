"""Which weights of a model a forward hook can stand in for, and what the layers around them compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.model_management
import torch
from torch import Tensor, nn

from ...lora_math.adapters import Adapter
from ...lora_math.fuse import Term
from ...lora_math.layer import Layer
from .internals import find, need
from .targets import Key

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

PACKED = "weights that only their own loader can unpack"
NORMS = "norms and other parameters outside of linear and convolution layers"


def split(model, changes: Mapping[Key, Sequence[Term]]) -> tuple[dict, dict, dict[str, list[str]]]:
    """(what can be live, what must be patched, reason -> weights that must be patched) of a LoRA's changes.

    A weight is live with all that changes it or not at all: its adapters keep their order.
    """
    layers, reasons = layers_of(model.model), {}
    for key, terms in changes.items():
        for _, adapter in terms:
            if (reason := obstacle(layers, key, adapter)) is not None:
                reasons.setdefault(_name(key), reason)
    live = {key: terms for key, terms in changes.items() if _name(key) not in reasons}
    rest = {key: terms for key, terms in changes.items() if _name(key) in reasons}
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return live, rest, by_reason


def _name(key: Key) -> str:
    return key if isinstance(key, str) else key[0]


def obstacle(layers: Mapping[str, nn.Module], key: Key, adapter: Adapter) -> str | None:
    """Why a forward hook cannot apply this adapter to this weight, None when it can."""
    path, _, parameter = _name(key).rpartition(".")
    module = layers.get(path)
    if module is None or parameter not in ("weight", "bias"):
        return NORMS
    part = None if isinstance(key, str) else key[1]
    if parameter == "bias":
        return None if adapter.is_linear and adapter.shape_after is None else "replaced biases"
    if adapter.shape_after is not None:
        return "layers that get wider"
    if adapter.prepares_from_weight and not _is_readable(module):
        return PACKED
    groups = getattr(module, "groups", 1)
    if part is not None and (groups > 1 or (part[0] == 1 and adapter.needs_weight)):
        return "parts of a weight that only patching can change"
    if adapter.is_product:
        return None
    shape = list(weight_shape(module))
    if part is not None:
        shape[part[0]] = part[2]
    if not _has_forward_form(adapter, tuple(shape), groups):
        return f"{adapter.name} without a forward form"
    return None


_forms: WeakKeyDictionary[Adapter, dict[tuple, bool]] = WeakKeyDictionary()


def _has_forward_form(adapter: Adapter, shape: tuple[int, ...], groups: int) -> bool:
    """Whether ``prepared`` makes one for this shape. Tried once, without values: a moved slider asks again."""
    known = _forms.setdefault(adapter, {})
    if (shape, groups) not in known:
        empty = adapter.map_tensors(lambda tensor: tensor.to("meta"))
        known[shape, groups] = (
            adapter.has_forward and empty.prepared(torch.empty(shape, device="meta"), groups) is not None
        )
    return known[shape, groups]


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """name -> module of every linear and convolution layer whose forward is W x + b of its input."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found = {name: module for name, module in modules.items() if _is_layer(module)}
    for name, module in modules.items():
        # PyTorch's attention takes its projection's weight and runs it itself.
        if isinstance(module, nn.MultiheadAttention):
            found.pop(f"{name}.out_proj", None)
    return found


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, _KINDS):
        return True
    # ComfyUI's quantised layers are no nn.Linear, but its own class of that name.
    kind = find("comfy.ops", "CastWeightBiasOp", "Live LoRAs on quantised layers are patched instead.")
    return kind is not None and isinstance(module, kind) and type(module).__name__ == "Linear"


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """[out, in / groups, *kernel], also where the stored weight is packed bytes."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    return (module.out_features, module.in_features)


def _is_readable(module: nn.Module) -> bool:
    """Whether ``current`` can make numbers of the stored weight: it is stored as such, or ComfyUI's own layer converts it."""
    return hasattr(module, "convert_weight") or tuple(module.weight.size()) == weight_shape(module)


def describe(module: nn.Module, bias: Tensor | None, **options) -> Layer:
    """What a layer computes. options: what its caller gives it besides the input."""
    base = lambda x: module.forward(x, **options)  # noqa: E731  past the hooks, ours included
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return Layer(base, weight_shape(module), bias)
    convolve = lambda x, weight: module._conv_forward(x, weight, None, **options)  # noqa: E731
    return Layer(base, weight_shape(module), bias, groups=module.groups, convolve=convolve)


def current(patcher, key: str, device: torch.device, patched: bool = True) -> Tensor:
    """A parameter as the model computes with it, dequantised and with the model's patches, as a new float32 tensor on the device.

    patched: False for the model's own, before any patch.
    """
    get_key_weight = need("comfy.model_patcher", "get_key_weight", "This live LoRA (it needs the model's own weights)")
    weight, _, convert = get_key_weight(patcher.model, key)
    if key in patcher.backup:
        weight = patcher.backup[key].weight
    elif key in patcher.hook_backup:
        weight = patcher.hook_backup[key][0]
    weight = comfy.model_management.cast_to_device(weight, device, torch.float32, copy=True)
    if convert is not None:
        weight = convert(weight, inplace=True)
    if patched and key in patcher.patches:
        weight = comfy.lora.calculate_weight(patcher.patches[key], weight, key)
    return weight
