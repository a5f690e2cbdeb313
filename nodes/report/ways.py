"""How a LoRA is applied, in lines of a report: beside its layers or as patches, why so, what it costs, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...lora_math.adapters import TCLoRA, TLoRA
from ...lora_math.fuse import Term
from ...lora_math.wording import some, spread
from ..comfy.targets import Key, Targets, taken_apart


def rounded_lines(keys: Iterable[Key], targets: Targets | None) -> list[str]:
    """What patching costs a model whose weights are stored in few bits. keys: of the patches."""
    coarse = frozenset() if targets is None else targets.coarse
    if not coarse:
        return []
    count = len(coarse.intersection(taken_apart(key)[0] for key in keys))
    if not count:
        return []
    stored = "is" if count == 1 else "are"
    return [
        f"Rounded: {_weights(count)} {stored} stored in 8 bits or fewer and rounded to that again when patched; "
        "apply = live adds the LoRA exactly"
    ]


def live_lines(
    count: int,
    patched: Mapping[str, Sequence[str]],
    varies: str,
    masks: int = 0,
    unreached: Sequence[str] = (),
    on_text: bool = False,
) -> list[str]:
    """What runs beside the layers. count: its weights; patched: reason -> weights that are patched instead; varies: how its strength
    does, empty where it is constant; masks: how many pictures say where it acts, 0 for everywhere; unreached: its points over time that
    no sampling comes to; on_text: whether a mask leaves text alone."""
    over_time = f", its strength follows the keyframes: {varies}" if varies else ""
    lines = [f"Live: {_weights(count)} beside the model{over_time}"] if count else ["Live: nothing of this LoRA can be"]
    for reason, names in patched.items():
        constant = ", at constant strength" if varies else ""
        everywhere = ", everywhere" if masks else ""
        lines.append(f"Patched instead{constant}{everywhere}, {_weights(len(names))} ({reason}): {some(names)}")
    if unreached and count:
        lines.append(f"Keyframes: no sampling comes to {some(unreached)}, beyond its end")
    if masks and count:
        share = "by the share of the picture that it covers"
        text = (
            f"fully on text tokens; on time and modulation {share}"
            if on_text
            else f"on text tokens, time and modulation {share}"
        )
        lines.append(f"Mask: acts where it is white; {text}")
    if masks > 1 and count:
        lines.append(
            f"Mask: its {masks} pictures go round a batch, one for each of its pictures, or for all frames of each of its videos"
        )
    return lines


def rank_lines(changes: Mapping[Key, Sequence[Term]], stated: bool) -> list[str]:
    """How a T-LoRA or TC-LoRA varies. stated: whether the file says how many rank columns act at the most noise."""
    if any(isinstance(a, TCLoRA) for terms in changes.values() for _, a in terms):
        return ["TC-LoRA: each rank column is multiplied and added to as the timestep says, at every step"]
    found = [a for terms in changes.values() for _, a in terms if isinstance(a, TLoRA)]
    if not found:
        return []
    least, rank = spread([a.least for a in found], median=False), spread([a.rank for a in found], median=False)
    source = "" if stated else " (the trainers' default: the file does not say)"
    act = "acts" if least == "1" else "act"
    return [f"T-LoRA: of {rank} rank columns {least} {act} at the most noise{source}, and more the less noise is left"]


def cost_lines(cost: float | None, patchable: bool = True) -> list[str]:
    """What a LoRA beside its layers adds to their multiplications at every step, as a fraction; None where it is not known. patchable:
    whether patches could be the same."""
    if cost is None:
        return []
    share = "under 1 %" if cost < 0.01 else f"{100 * cost:.0f} %"
    told = f"Live costs {share} more multiplications in these layers at every step"
    return [f"{told}; patch costs none" if patchable else told]


def auto_lines(count: int, patched: int, cost: float | None = None) -> list[str]:
    """What apply = auto has decided. count: weights that are live, patched: those that are not; cost: see ``cost_lines``."""
    if not count:
        return ["Patched: no weight that it changes is stored in 8 bits or fewer, and its strength does not vary"]
    others = f"; {_weights(patched)} patched" if patched else ""
    stored = "is" if count == 1 else "are"
    told = f"Live: {_weights(count)} that {stored} stored in 8 bits or fewer, where a patch would be rounded{others}"
    return [told, *cost_lines(cost)]


def order_lines(count: int, patched: Mapping[str, Sequence[str]]) -> list[str]:
    """What stands behind live LoRAs, where the order matters. count: weights that are live for that; patched: those that cannot be."""
    lines = []
    if count:
        lines.append(
            f"Live, {_weights(count)}: a live LoRA stands before this one there, and one of them depends on the weight"
        )
    for reason, names in patched.items():
        lines.append(
            f"Before the live LoRAs of {_weights(len(names))}, although it stands behind them ({reason}): {some(names)}"
        )
    return lines


def _weights(n: int) -> str:
    return f"{n} weight" if n == 1 else f"{n} weights"
