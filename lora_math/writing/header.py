"""What a saved LoRA's header says: written fresh, since readers tell files apart by it, with what the parents knew of their training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import families

# The most tags that are taken over: a header is read by every tool that lists files.
TAGS = 20_000


@dataclass(frozen=True)
class Parent:
    """One LoRA that went in: its name, its header, its own hash (``sha256`` of the bytes behind its header) where it is known, and its
    trigger words, where something besides the header tells them."""

    name: str
    metadata: Mapping[str, str]
    sha256: str = ""
    words: Sequence[str] = ()


def header(
    name: str,
    parents: Sequence[Parent],
    family: str | None,
    ranks: Iterable[int],
    recipe: Mapping[str, object],
    date: str,
    thumbnail: str | None = None,
) -> dict[str, str]:
    """name: of the file, without its ending; ranks: of every low-rank layer; recipe: how it was made, for ``strata.recipe``; date: ISO
    8601; thumbnail: a data URL. Hashes are ``file.save``'s to add."""
    dims = set(ranks)
    dim = str(dims.pop()) if len(dims) == 1 else "Dynamic"
    found = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
        "ss_output_name": name,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": name,
        "modelspec.date": date,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.merged_from": ", ".join(parent.name for parent in parents),
        "strata.recipe": json.dumps(recipe, ensure_ascii=False, sort_keys=True),
    }
    base, architecture = _base(family, parents)
    if base:
        found["ss_base_model_version"] = base
    if architecture:
        found["modelspec.architecture"] = architecture
    if family in families.FAMILIES:
        found |= families.FAMILIES[family].marks
    tags = _united_tags(parents)
    if tags:
        found["ss_tag_frequency"] = json.dumps(tags, ensure_ascii=False)
    phrases = dict.fromkeys(
        word
        for parent in parents
        for word in parent.words or map(str.strip, parent.metadata.get("modelspec.trigger_phrase", "").split(","))
        if word
    )
    if phrases:
        found["modelspec.trigger_phrase"] = ", ".join(phrases)
    if thumbnail:
        found["modelspec.thumbnail"] = thumbnail
    return found


def _base(family: str | None, parents: Sequence[Parent]) -> tuple[str, str]:
    """What the parents say as long as they agree: they know a base model more exactly than its layers do."""
    row = families.FAMILIES.get(family)
    base = row.base_version if row is not None and row.base_version else family or ""
    architecture = row.architecture if row is not None and row.architecture else family or ""
    said = {parent.metadata.get("ss_base_model_version", "") for parent in parents}
    told = {parent.metadata.get("modelspec.architecture", "") for parent in parents}
    base = said.pop() if len(said) == 1 and "" not in said else base
    own = told.pop() if len(told) == 1 and "" not in told else architecture
    if own and not own.endswith("/lora"):
        own += "/lora"
    return base, own


def _united_tags(parents: Sequence[Parent]) -> dict[str, dict[str, int]]:
    """Counts of the same tag in the same dataset added up."""
    united: dict[str, Counter] = {}
    count = 0
    for parent in parents:
        try:
            datasets = json.loads(parent.metadata.get("ss_tag_frequency", "{}"))
        except (ValueError, RecursionError):
            continue
        for dataset, tags in datasets.items() if isinstance(datasets, dict) else ():
            for tag, number in tags.items() if isinstance(tags, dict) else ():
                if isinstance(number, int) and count < TAGS:
                    united.setdefault(dataset, Counter())[tag] += number
                    count += 1
    return {dataset: dict(tags) for dataset, tags in united.items()}
