"""From the key names that trainers write to adapters by module name.

The module name is whatever stands in front of an adapter's suffix: which weight of which model it means is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from torch import Tensor

from .. import names
from ..adapters import WEIGHT_ADAPTERS, Adapter, Diff, DoRA, Padded, Parts, Rule, SetWeight
from ..errors import StrataError
from . import split_qkv as quirks
from .peft_config import Rules
from .rank_mask import rank_mask
from .unsupported import bundled_embedding, is_scale, method_of

_SUFFIXES: dict[str, str] = {
    ".alpha": "alpha",
    ".scalar": "scalar",
    # Wan has a difference of the block's own parameter "modulation".
    ".diff_m": "diff_m",
    ".set_bias": "set_bias",
    # ComfyUI's converter of fused q, k, v writes the first row of the factors' product that belongs here.
    ".row_offset": "row_offset",
}
for _adapter in (*WEIGHT_ADAPTERS, DoRA, Padded):
    _SUFFIXES.update(_adapter.suffixes)
_UNDOTTED = tuple(suffix for suffix in _SUFFIXES if not suffix.startswith("."))
# What belongs to an adapter and says nothing without it: some converters leave it under the module's name in another spelling.
_MAGNITUDES = frozenset(("magnitude", "dora_scale"))
_COMPANIONS = _MAGNITUDES | {"alpha", "scalar"}


@dataclass(frozen=True, eq=False)
class Entry:
    """One change of one parameter: ``module`` as the file names it, ``parameter`` "weight" or "bias", ``keys`` the tensors it came from.

    optional: it follows from another entry of the module, so a layer without this parameter lacks nothing (PEFT's IA3 on a bias).
    """

    module: str
    parameter: str
    adapter: Adapter
    keys: tuple[str, ...]
    alpha: float | None = None
    optional: bool = False

    @cached_property
    def is_text_encoder(self) -> bool:
        """Whether it changes a text encoder, by what its module's name says."""
        return names.is_text_encoder(self.module)


@dataclass(frozen=True, eq=False)
class StateDict:
    """A whole file: what it changes, the keys that nothing here understands with the reason for each, and what a person should know.

    orphans: those of them that are DoRA's magnitudes, without which a layer does something else than what was trained; rules_from: where
    alpha stands that no tensor holds, for people to read.
    """

    entries: tuple[Entry, ...]
    leftovers: Mapping[str, str]
    notes: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    rules_from: str = "the file's header"


def split_key(key: str) -> tuple[str, str] | None:
    """(module, role) of a key, or None when no adapter knows its suffix.

    >>> split_key("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight")
    ('lora_unet_mid_block_attentions_0_proj_in', 'lora_up')
    """
    for suffix in _UNDOTTED:
        if key.endswith(suffix):
            return key[: -len(suffix)], _SUFFIXES[suffix]
    starts = []
    start = len(key)
    while len(starts) < 4 and (start := key.rfind(".", 0, start)) >= 0:
        starts.append(start)
    # The longest suffix first: ".lora.up.weight" before ".up.weight".
    for start in reversed(starts):
        suffix = key[start:]
        role = _SUFFIXES.get(suffix)
        if role is None and suffix.count(".") > 1:
            # A PEFT adapter's own name stands second: .lora_A.default.weight
            first, _, rest = suffix[1:].partition(".")
            _, dot, tail = rest.partition(".")
            role = _SUFFIXES.get(f".{first}.*{dot}{tail}")
        if role is not None:
            return key[:start], role
    return None


def parse(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, config: Mapping | None = None
) -> StateDict:
    """The adapters in a file. Raises nothing: what cannot be understood is in ``leftovers``.

    metadata: the safetensors header; config: the contents of PEFT's adapter_config.json, where one lies beside the file.
    """
    modules, refused, leftovers = _group(tensors)
    rules = Rules.from_header(metadata or {}) if config is None else Rules.from_adapter_config(config)
    split_qkv = quirks.is_split_qkv(metadata or {})
    mask = rank_mask(metadata or {})
    _join_companions(modules)
    rows = _rows_of_fused(modules, tensors)
    corrected = 0
    entries: list[Entry] = []
    orphans: list[str] = []
    for module, keys in modules.items():
        parts = {role: tensors[key] for role, key in keys.items()}
        try:
            if module in refused:
                raise StrataError(f"{refused[module]} is not supported")
            rule = _rule(parts, rules.for_module(module))
            rule = rule._replace(least_rank=mask.least, rank_exponent=mask.exponent)
            if split_qkv and (count := quirks.split_qkv_parts(module, parts)) > 1:
                rule = rule._replace(factor=rule.factor * count)
                corrected += 1
            found = _entries(module, parts, keys, rule, rows.get(module))
            reason = _unused_reason(keys, bool(found)) if parts else ""
            entries.extend(found)
            if not any(DoRA.name in entry.adapter.forms() for entry in found):
                orphans += [keys[role] for role in parts if role in _MAGNITUDES]
        except StrataError as problem:
            parts, reason = dict.fromkeys(keys), str(problem)
        leftovers.update((keys[role], reason) for role in parts)
    notes = (quirks.SPLIT_QKV_NOTE.format(count=corrected),) if corrected else ()
    source = "the file's header" if config is None else "adapter_config.json beside the file"
    return StateDict(tuple(entries), leftovers, notes, tuple(orphans), source)


def _join_companions(modules: dict[str, dict[str, str]]) -> None:
    """Gives magnitudes and alphas that stand alone to the module that means the same layer in another spelling.

    diffusers' converter to kohya's names leaves ``lora_unet_..._attn1.to_q.lora_magnitude_vector`` beside
    ``lora_unet_..._attn1_to_q.lora_down.weight``: it replaces all dots but the last two.
    """
    alone = [module for module, roles in modules.items() if _COMPANIONS.issuperset(roles)]
    if not alone:
        return
    homes = {
        names.read(module): roles for module, roles in reversed(modules.items()) if not _COMPANIONS.issuperset(roles)
    }
    for module in alone:
        home = homes.get(names.read(module))
        if home is not None and home.keys().isdisjoint(modules[module]):
            home.update(modules.pop(module))


def _rows_of_fused(
    modules: Mapping[str, Mapping[str, str]], tensors: Mapping[str, Tensor]
) -> dict[str, tuple[int, int | None]]:
    """module -> (first row, row behind the last or None for the rest) of the fused q, k, v that its factors make, where it says so."""
    starts: dict[str, dict[str, int]] = {}
    for module, roles in modules.items():
        offset = tensors[roles["row_offset"]] if "row_offset" in roles else None
        if offset is not None and offset.numel() == 1 and offset.isfinite().all():
            starts.setdefault(module[:-1], {})[module] = int(offset)
    found: dict[str, tuple[int, int | None]] = {}
    for of_fused in starts.values():
        firsts = sorted(set(of_fused.values()))
        ends = dict(zip(firsts, [*firsts[1:], None], strict=True))
        found |= {module: (start, ends[start]) for module, start in of_fused.items()}
    return found


def _group(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, str]], dict[str, str], dict[str, str]]:
    """({module: {role: key}}, {module: method that cannot be applied}, {key: why it is left over})."""
    modules: dict[str, dict[str, str]] = {}
    refused: dict[str, str] = {}
    leftovers: dict[str, str] = {}
    for key, tensor in tensors.items():
        if tensor.is_complex():
            leftovers[key] = "complex numbers, which no adapter has"
            continue
        # An adapter of PEFT may be called anything but that.
        found = None if is_scale(key) else split_key(key)
        method = method_of(key) if found is None else None
        if method is not None:
            refused[method[0]] = method[1]
            leftovers[key] = f"{method[1]} is not supported"
            continue
        if found is None and (embedding := bundled_embedding(key)) is not None:
            leftovers[key] = embedding
            continue
        if found is None and key.endswith(".weight") and f"{key[:-7]}.on_input" in tensors:
            # LyCORIS's IA3 names its vector as any layer names its weight.
            found = key[:-7], "ia3_weight"
        if found is None:
            leftovers[key] = "unknown kind of tensor"
            continue
        roles = modules.setdefault(found[0], {})
        if found[1] in roles:
            leftovers[key] = f"the same as {roles[found[1]]}"
        else:
            roles[found[1]] = key
    return modules, refused, leftovers


def _rule(parts: Parts, rule: Rule) -> Rule:
    """A stored alpha wins over the header: trainers that store one have already put rsLoRA's root into it (LyCORIS ``locon.py``)."""
    alpha, scalar = (_number(parts, role) for role in ("alpha", "scalar"))
    if alpha is not None:
        rule = rule._replace(alpha=alpha, rank_stabilized=False, rank=None)
    return rule if scalar is None else rule._replace(factor=rule.factor * scalar)


def _number(parts: Parts, role: str) -> float | None:
    if role not in parts:
        return None
    if parts[role].numel() != 1:
        raise StrataError(f"its {role} is not one number but {parts[role].numel()}")
    return float(parts[role])


def _entries(
    module: str, parts: Parts, keys: Mapping[str, str], rule: Rule, rows: tuple[int, int | None] | None = None
) -> list[Entry]:
    """The entries of one module; roles that were used are gone from ``parts`` afterwards. rows: as ``_rows_of_fused`` has them."""
    entries: list[Entry] = []
    if "diff_m" in parts:
        entries.append(Entry(f"{module}.modulation", "weight", Diff(parts.pop("diff_m")), (keys["diff_m"],)))
    if "set_bias" in parts:
        entries.append(Entry(module, "bias", SetWeight(parts.pop("set_bias")), (keys["set_bias"],)))
    of_layer = len(entries)
    rank, before = None, set(parts)
    for kind in _kinds(frozenset(parts)):
        adapter = kind.parse(parts, rule)
        if adapter is None:
            continue
        if len(entries) == of_layer:
            if rows is not None:
                adapter = _cut(adapter, rows, parts)
            adapter = Padded.wrap(DoRA.wrap(adapter, parts), parts)
            rank = adapter.rank
            parts.pop("alpha", None)
            parts.pop("scalar", None)
        entries.append(Entry(module, "weight", adapter, _keys(keys, before, parts), rule.alpha))
        beside = adapter.bias_adapter()
        if beside is not None:
            entries.append(Entry(module, "bias", beside, entries[-1].keys, optional=True))
        before = set(parts)
    bias = Diff.parse_bias(parts, rule, rank)
    if bias is not None:
        entries.append(Entry(module, "bias", bias, _keys(keys, before, parts)))
    return entries


def _cut(adapter: Adapter, rows: tuple[int, int | None], parts: Parts) -> Adapter:
    """The adapter of some rows of fused q, k, v, whose magnitudes, if any, are those of these rows."""
    parts.pop("row_offset")
    total = adapter.matrix_shape[0] if adapter.matrix_shape else 0
    start, stop = rows[0], total if rows[1] is None else rows[1]
    part = adapter.cut(start, stop - start, total) if 0 <= start < stop <= total else None
    if part is None:
        raise StrataError(f"its row_offset {start} is none of the {total} rows of its factors")
    return part


@lru_cache
def _kinds(roles: frozenset[str]) -> tuple[type[Adapter], ...]:
    """Those with a tensor among the roles: a file of a thousand modules has few sets of roles."""
    return tuple(kind for kind in WEIGHT_ADAPTERS if not roles.isdisjoint(kind.suffixes.values()))


def _keys(keys: Mapping[str, str], before: set[str], after: Parts) -> tuple[str, ...]:
    return tuple(keys[role] for role in keys if role in before and role not in after)


def _unused_reason(keys: Mapping[str, str], used: bool) -> str:
    for kind in WEIGHT_ADAPTERS:
        lacking = kind.lacks(keys)
        if lacking is not None:
            return lacking
    return "belongs to nothing else that this module has" if used else "belongs to nothing in this file"
