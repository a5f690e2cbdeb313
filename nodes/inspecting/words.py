"""How numbers of LoRAs are worded, alike in the picture, its hovers and the report."""

from __future__ import annotations

from ...lora_math.inspecting.layers import LayerNumbers
from ...lora_math.inspecting.one import Part
from .look import One, Several

KINDS = {
    "reinforce": "reinforce each other",
    "cancel": "work against each other",
    "collide": "collide: not aligned, but in the same directions",
    "apart": "leave each other alone",
    "alone": "only one of them is here",
}


def percent(share: float) -> str:
    """98.7 %, 3 %, 0.04 %."""
    value = 100 * share
    if value >= 99.95 or value == 0:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 9.95 else f"{value:.2g} %"


def size(value: float) -> str:
    return f"{value:.3g}"


def strengths(one: One) -> str:
    if one.strength_model == one.strength_clip:
        return f"x {one.strength_model:g}"
    return f"x {one.strength_model:g}, text encoders x {one.strength_clip:g}"


def kept(part: Part) -> str:
    """ "rank 12 of 32 keeps 99 %"; empty where no singular values are known."""
    if part.rank is None:
        return ""
    return f"rank {part.rank}{f' of {part.stored}' if part.stored else ''} keeps 99 %"


def block(name: str, part: Part, relative: float | None) -> str:
    parts = [f"{name}: {percent(part.share)} of the energy"]
    if relative is not None:
        parts.append(f"changes the model's weights by {percent(relative)}")
    if part.rank is not None:
        parts.append(f"{kept(part)}, effective rank {size(part.effective)}")
    parts.append(f"{part.layers} layer{'s' if part.layers != 1 else ''}")
    return "; ".join(parts)


def spike(layer: LayerNumbers) -> str:
    return f"{percent(layer.first_share)} in one direction, of singular value {size(layer.largest)}: {layer.module}"


def against(layer: LayerNumbers, ratio: float) -> str:
    return f"stretches {size(ratio)} x as far as the model's own weight: {layer.module}"


def restores(found: Several) -> float | None:
    """What to multiply all strengths by so that the sum is as strong as the strongest alone; None where it is about that already."""
    if found.whole.ratio < 1.1:
        return None
    return float(f"{1 / found.whole.ratio:.2g}")


def sum_of(found: Several) -> str:
    ratio = found.whole.ratio
    if ratio == 0:
        return "together they change nothing"
    told = f"together {ratio:.3g} x as strong as the strongest alone"
    factor = restores(found)
    return told if factor is None else f"{told}: x {factor:g} restores it"


def pair(found: Several, i: int, j: int) -> str:
    names, cosine = [found.loras[k].short for k in (i, j)], float(found.whole.cosines[i, j])
    told = f"{names[0]} and {names[1]}: " + ("no layer in common" if cosine != cosine else f"cosine {cosine:.2f}")
    overlap, chance = float(found.whole.overlap[i, j]), float(found.whole.chance[i, j])
    if overlap == overlap:
        told += f", {percent(overlap)} of their directions shared (chance: {percent(chance)})"
    return told
