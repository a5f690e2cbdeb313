"""The report in lines, and the same numbers for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ...lora_math.reading.training_facts import trainer, training_facts
from ...lora_math.wording import some
from ..report.lora import describe
from . import words
from .look import One, Several

SHOWN_BLOCKS = 200


def report(ones: Sequence[One], together: Several | None, notes: Sequence[str]) -> str:
    """One LoRA after another, what they do together first."""
    parts = [_together(together)] if together is not None else []
    parts += [_one(one) for one in ones]
    if notes:
        parts.append("\n".join(f"Note: {note}" for note in notes))
    return "\n\n".join(parts)


def _one(one: One) -> str:
    found, whole = one.numbers, one.numbers.whole
    lines = [f"{one.name} {words.strengths(one)}", f"File: {describe(one.lora)}"]
    if one.fits is not None:
        lines.append(f"Fit: {one.fits[0]} of {one.fits[1]} tensors for what is connected or loaded")
    if one.lora.contents.leftovers:
        left = one.lora.contents.leftovers
        lines.append(f"Left over: {len(left)} tensors that are not understood ({some(left)})")
    if whole.rank is not None:
        lines.append(f"Rank: {words.kept(whole)} of the energy; effective rank {words.size(whole.effective)}")
    lines.append(f"Size: {words.size(whole.norm)} at strength 1 (Frobenius norm of the whole change)")
    if found.broken:
        lines.append(f"Damaged: {found.broken} layers with NaN, infinity or sizes that do not fit each other")
    if found.dead:
        lines.append(f"Dead: {found.dead} layers are all zero")
    if found.unknown:
        lines.append(
            f"Without singular values: {found.unknown} layers, which are stored whole, too large, or depend on the weight"
        )
    lines += [f"Spike: {words.spike(layer)}" for layer in found.spikes[:8]]
    lines += [f"Against the model: {words.against(layer, ratio)}" for layer, ratio in one.against[:4]]
    if found.little:
        lines.append(f"Hardly matter: {found.little} of {len(found.layers)} layers together hold less than 1 %")
    lines.append("Blocks:")
    lines += [f"  {words.block(name, found.blocks[name], one.relative.get(name))}" for name in one.order[:SHOWN_BLOCKS]]
    made_by, facts = trainer(one.lora.metadata), training_facts(one.lora.metadata)
    if made_by or facts:
        lines.append("Training:")
        lines += [f"  {label}: {value}" for label, value in ([("trainer", made_by)] if made_by else []) + facts]
    if one.lora.trigger_words:
        lines.append(f"Trigger words: {', '.join(one.lora.trigger_words)}")
    return "\n".join(lines)


def _together(found: Several) -> str:
    count = len(found.loras)
    lines = [f"{count} LoRAs: {words.sum_of(found)}"]
    lines += [f"  {words.pair(found, i, j)}" for i in range(count) for j in range(i)]
    kinds: dict[str, list[str]] = {}
    for name, block in found.blocks.items():
        kinds.setdefault(block.kind, []).append(name)
    for kind in ("reinforce", "cancel", "collide", "apart"):
        if kind in kinds:
            lines.append(f"Where they {words.KINDS[kind]}: {', '.join(kinds[kind])}")
    lines.append(f"Compared: {found.compared} weights that two or more change; {found.alone} only one does")
    if found.unknown:
        lines.append(f"Not compared: {found.unknown} weights, whose change depends on the weight or is too large")
    for group in found.drift:
        last = group[-1]
        steps = [f"{found.loras[at].short} {_shown(found.whole.cosines[at, last])}" for at in group]
        lines.append(f"Epochs of one training, cosine with the last: {', '.join(steps)}")
    lines += [f"Note: {note}" for note in found.notes]
    return "\n".join(lines)


def _shown(value) -> str:
    return "-" if math.isnan(value) else f"{float(value):.3f}"


def as_json(ones: Sequence[One], together: Several | None) -> str:
    found = {"loras": [_numbers(one) for one in ones]}
    if together is not None:
        found["together"] = _numbers_together(together)
    return json.dumps(found, ensure_ascii=False, allow_nan=False)


def _numbers(one: One) -> dict:
    found, whole = one.numbers, one.numbers.whole
    return {
        "name": one.name,
        "strength_model": one.strength_model,
        "strength_clip": one.strength_clip,
        "family": one.lora.family,
        "bytes": one.lora.size,
        "fits": None if one.fits is None else {"used": one.fits[0], "total": one.fits[1]},
        "left_over": len(one.lora.contents.leftovers),
        **_part(whole),
        "energy_kept_by_rank": [_rounded(v) for v in whole.kept.tolist()],
        "dead": found.dead,
        "broken": found.broken,
        "without_singular_values": found.unknown,
        "layers_that_hold_1_percent": found.little,
        "spikes": [layer.module for layer in found.spikes],
        "against_the_model": {layer.module: _rounded(ratio) for layer, ratio in one.against},
        "blocks": {
            name: {**_part(found.blocks[name]), "relative": _rounded(one.relative.get(name))} for name in one.order
        },
        "layers": [
            {
                "module": layer.module,
                "parameter": layer.parameter,
                "algorithm": layer.algorithm,
                "rank": layer.rank,
                "norm": _rounded(layer.norm),
                "sigma_1": _rounded(layer.largest),
                "first_share": _rounded(layer.first_share),
                "effective_rank": _rounded(layer.effective_rank),
            }
            for layer in found.layers
        ],
        "training": dict(training_facts(one.lora.metadata)),
        "trigger_words": list(one.lora.trigger_words),
    }


def _part(part) -> dict:
    return {
        "layers": part.layers,
        "norm": _rounded(part.norm),
        "share": _rounded(part.share),
        "stored_rank": part.stored,
        "rank_99": part.rank,
        "effective_rank": _rounded(part.effective) if part.rank is not None else None,
    }


def _numbers_together(found: Several) -> dict:
    return {
        "norm": _rounded(found.whole.norm),
        "norms": [_rounded(v) for v in found.whole.norms.tolist()],
        "ratio": _rounded(found.whole.ratio),
        "restores": words.restores(found),
        "cosines": _matrix(found.whole.cosines),
        "overlap": _matrix(found.whole.overlap),
        "chance": _matrix(found.whole.chance),
        "blocks": {
            name: {"kind": block.kind, "interference": _rounded(block.interference), "norm": _rounded(block.norm)}
            for name, block in found.blocks.items()
        },
        "epochs": [[found.loras[at].name for at in group] for group in found.drift],
        "compared": found.compared,
        "only_one": found.alone,
        "not_compared": found.unknown,
    }


def _matrix(values) -> list[list[float | None]]:
    return [[_rounded(v) for v in row] for row in values.tolist()]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
