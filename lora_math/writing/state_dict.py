"""From adapters by module name to the tensors of a file: the inverse of ``reading.state_dict``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..adapters import Rule
from ..errors import StrataError
from ..reading.state_dict import Entry


@dataclass(frozen=True, eq=False)
class Written:
    """tensors by key; metadata: what the header must say so that they are read as they were meant, mostly nothing."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def write(entries: Iterable[Entry], style: str) -> Written:
    """The tensors of a file in KOHYA's or PEFT's style, under the entries' own module names.

    Raises StrataError naming the module where the style has no form for an adapter, or one module needs a key twice.
    """
    tensors: dict[str, Tensor] = {}
    said: list[Rule] = []
    for entry in entries:
        # Its module's other entry says it already.
        if entry.optional:
            continue
        try:
            is_bias = entry.parameter == "bias"
            found, rule = entry.adapter.write_bias() if is_bias else entry.adapter.write(style)
        except StrataError as problem:
            raise StrataError(f"{entry.module}: {problem}") from None
        said.append(rule)
        for suffix, tensor in found.items():
            key = entry.module + suffix
            if key in tensors and not (tensors[key].shape == tensor.shape and bool((tensors[key] == tensor).all())):
                raise StrataError(f"{entry.module}: it would need {suffix} twice")
            tensors[key] = tensor
    return Written(tensors, _header(said))


def _header(rules: list[Rule]) -> dict[str, str]:
    """What ``reading.peft_config`` must find, as diffusers writes it."""
    if not any(rule.peft for rule in rules):
        return {}
    terms = {rule.neumann_terms for rule in rules if rule.neumann_terms is not None}
    if len(terms) > 1:
        raise StrataError(
            "One file cannot hold OFT with and without the exact Cayley transform, or with series of several lengths."
        )
    told: dict[str, object] = {"peft_type": "OFT" if terms else "LORA"}
    for count in terms:
        told |= {"use_cayley_neumann": count > 0, "num_cayley_neumann_terms": count}
    return {"lora_adapter_metadata": json.dumps(told, sort_keys=True)}
