"""From the key names that trainers write to adapters by module name.

The module name is whatever stands in front of an adapter's suffix: which weight of which model it means is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .adapters import WEIGHT_ADAPTERS, Adapter, Diff, DoRA, Padded, Parts, Scaling
from .errors import StrataError
from .metadata import ScaleRules

_SHARED = {".alpha": "alpha", ".lora_B.bias": "lora_up_bias", ".lora_B.*.bias": "lora_up_bias"}
_SUFFIXES: dict[str, str] = dict(_SHARED)
for _adapter in (*WEIGHT_ADAPTERS, DoRA, Padded):
    _SUFFIXES.update(_adapter.suffixes)


@dataclass(frozen=True, eq=False)
class Entry:
    """One change of one parameter: ``module`` as the file names it, ``parameter`` "weight" or "bias", ``keys`` the tensors it came from."""

    module: str
    parameter: str
    adapter: Adapter
    keys: tuple[str, ...]
    alpha: float | None = None


@dataclass(frozen=True, eq=False)
class StateDict:
    """A whole file: what it changes, and the keys that nothing here understands with the reason for each."""

    entries: tuple[Entry, ...]
    leftovers: Mapping[str, str]


def split_key(key: str) -> tuple[str, str] | None:
    """(module, role) of a key, or None when no adapter knows its suffix.

    >>> split_key("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight")
    ('lora_unet_mid_block_attentions_0_proj_in', 'lora_up')
    """
    dots = [i for i, char in enumerate(key) if char == "."][-4:]
    for start in dots:  # the longest suffix first: ".lora.up.weight" before ".up.weight"
        suffix = key[start:]
        role = _SUFFIXES.get(suffix)
        if role is None and suffix.count(".") > 1:
            first, _, rest = suffix[1:].partition(
                "."
            )  # a PEFT adapter's own name stands second: .lora_A.default.weight
            _, dot, tail = rest.partition(".")
            role = _SUFFIXES.get(f".{first}.*{dot}{tail}")
        if role is not None:
            return key[:start], role
    for suffix in ("_lora.up.weight", "_lora.down.weight"):
        if key.endswith(suffix):
            return key[: -len(suffix)], _SUFFIXES[suffix]
    return None


def is_lora_key(key: str) -> bool:
    """Whether a file with this key can be a LoRA at all."""
    return split_key(key) is not None


def parse(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> StateDict:
    """The adapters in a file. Raises nothing: what cannot be understood is in ``leftovers``."""
    modules: dict[str, dict[str, str]] = {}
    leftovers: dict[str, str] = {}
    for key in tensors:
        found = split_key(key)
        if found is None:
            leftovers[key] = "unknown kind of tensor"
            continue
        roles = modules.setdefault(found[0], {})
        if found[1] in roles:
            leftovers[key] = f"the same as {roles[found[1]]}"
        else:
            roles[found[1]] = key

    rules = ScaleRules.from_header(metadata or {})
    entries: list[Entry] = []
    for module, keys in modules.items():
        parts = {role: tensors[key] for role, key in keys.items()}
        try:
            scaling = _scaling(parts, rules.for_module(module))
            entries.extend(_entries(module, parts, keys, scaling))
            reason = _unused_reason(keys)
        except StrataError as problem:
            reason = str(problem)
        leftovers.update((keys[role], reason) for role in parts)
    return StateDict(tuple(entries), leftovers)


def _scaling(parts: Parts, rule: Scaling) -> Scaling:
    """A stored alpha wins over the header: trainers that store one have already put rsLoRA's root into it (LyCORIS ``locon.py``)."""
    alpha = parts.get("alpha")
    if alpha is None:
        return rule
    if alpha.numel() != 1:
        raise StrataError(f"its alpha is not one number but {alpha.numel()}")
    return Scaling(float(alpha))


def _entries(module: str, parts: Parts, keys: Mapping[str, str], scaling: Scaling) -> list[Entry]:
    """The entries of one module; roles that were used are gone from ``parts`` afterwards."""
    entries: list[Entry] = []
    alpha_of = scaling.alpha
    rank = None
    for kind in WEIGHT_ADAPTERS:
        before = set(parts)
        adapter = kind.parse(parts, scaling)
        if adapter is None:
            continue
        if not entries:
            adapter = Padded.wrap(DoRA.wrap(adapter, parts), parts)
            parts.pop("alpha", None)
            rank = adapter.rank
        entries.append(Entry(module, "weight", adapter, _keys(keys, before, parts), alpha_of))
    before = set(parts)
    bias = Diff.parse_bias(parts, scaling, rank)
    if bias is not None:
        entries.append(Entry(module, "bias", bias, _keys(keys, before, parts)))
    return entries


def _keys(keys: Mapping[str, str], before: set[str], after: Parts) -> tuple[str, ...]:
    return tuple(keys[role] for role in keys if role in before and role not in after)


def _unused_reason(keys: Mapping[str, str]) -> str:
    if "lora_up" in keys and "lora_down" not in keys:
        return "lora_up without lora_down"
    if "lora_down" in keys and "lora_up" not in keys:
        return "lora_down without lora_up"
    return "belongs to nothing in this file"
