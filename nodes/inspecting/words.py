"""How numbers of LoRAs are worded, alike in the picture, its hovers and the report."""

from __future__ import annotations

from ...lora_math.inspecting.layers import LayerNumbers
from ...lora_math.inspecting.one import Part
from .look import One, Several
from .saying import Say, english

KINDS = {
    "reinforce": "reinforce each other",
    "cancel": "work against each other",
    "collide": "collide: not aligned, but in the same directions",
    "apart": "leave each other alone",
    "alone": "only one of them is here",
}


def they(kind: str, say: Say = english) -> str:
    """What LoRAs do to each other, with them as its subject."""
    return {
        "reinforce": say("they reinforce each other"),
        "cancel": say("they work against each other"),
        "collide": say("they collide: not aligned, but in the same directions"),
        "apart": say("they leave each other alone"),
        "alone": say("only one of them is here"),
    }[kind]


def percent(share: float) -> str:
    """98.7 %, 3 %, 0.04 %."""
    value = 100 * share
    if value >= 99.95 or value == 0:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 9.95 else f"{value:.2g} %"


def size(value: float) -> str:
    return f"{value:.3g}"


def strengths(one: One, say: Say = english) -> str:
    if one.strength_model == one.strength_clip:
        return f"x {one.strength_model:g}"
    model, clip = f"{one.strength_model:g}", f"{one.strength_clip:g}"
    return say("x {model}, text encoders x {clip}", model=model, clip=clip)


def kept(part: Part, say: Say = english) -> str:
    """ "rank 12 of 32 keeps 99 %"; empty where no singular values are known."""
    if part.rank is None:
        return ""
    if part.stored:
        return say("rank {rank} of {stored} keeps 99 %", rank=part.rank, stored=part.stored)
    return say("rank {rank} keeps 99 %", rank=part.rank)


def block(name: str, part: Part, relative: float | None, say: Say = english) -> str:
    parts = [say("{name}: {share} of the energy", name=name, share=percent(part.share))]
    if relative is not None:
        parts.append(say("changes the model's weights by {share}", share=percent(relative)))
    if part.rank is not None:
        parts.append(say("{kept}, effective rank {rank}", kept=kept(part, say), rank=size(part.effective)))
    parts.append(say("1 layer") if part.layers == 1 else say("{count} layers", count=part.layers))
    return "; ".join(parts)


def spike(layer: LayerNumbers, say: Say = english) -> str:
    text = "{share} in one direction, of singular value {largest}: {module}"
    return say(text, share=percent(layer.first_share), largest=size(layer.largest), module=layer.module)


def against(layer: LayerNumbers, ratio: float, say: Say = english) -> str:
    text = "stretches {ratio} x as far as the model's own weight: {module}"
    return say(text, ratio=size(ratio), module=layer.module)


def restores(found: Several) -> float | None:
    """What to multiply all strengths by so that the sum is as strong as the strongest alone; None where it is about that already."""
    if found.whole.ratio < 1.1:
        return None
    return float(f"{1 / found.whole.ratio:.2g}")


def sum_of(found: Several, say: Say = english) -> str:
    ratio, factor = found.whole.ratio, restores(found)
    if ratio == 0:
        return say("together they change nothing")
    if factor is None:
        return say("together {ratio} x as strong as the strongest alone", ratio=f"{ratio:.3g}")
    text = "together {ratio} x as strong as the strongest alone: x {factor} restores it"
    return say(text, ratio=f"{ratio:.3g}", factor=f"{factor:g}")


def pair(found: Several, i: int, j: int, say: Say = english) -> str:
    first, second = (found.loras[k].short for k in (i, j))
    cosine, overlap, chance = (float(of[i, j]) for of in (found.whole.cosines, found.whole.overlap, found.whole.chance))
    if cosine != cosine:
        return say("{first} and {second}: no layer in common", first=first, second=second)
    if overlap != overlap:
        return say("{first} and {second}: cosine {cosine}", first=first, second=second, cosine=f"{cosine:.2f}")
    text = "{first} and {second}: cosine {cosine}, {overlap} of their directions shared (chance: {chance})"
    shares = {"overlap": percent(overlap), "chance": percent(chance)}
    return say(text, first=first, second=second, cosine=f"{cosine:.2f}", **shares)
