"""``<lora:name:strength>`` tags in a prompt: read, checked, and taken out of the text.

Programs disagree on two numbers: ComfyUI packs mean model:clip, A1111 means clip:model. Nothing in a tag tells which, so the caller says.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import StrataError

_TAG = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)
_KEYED = re.compile(r"\s*(te|clip|unet|model|lbw|w|dyn|lbwe|x|start|stop|step)\s*=\s*(.*)", re.IGNORECASE | re.DOTALL)
_SCHEDULES = ("start", "stop", "step")


@dataclass(frozen=True)
class LoraTag:
    """One tag. ``block_weights``: the text of its ``lbw=`` field, None where it has none."""

    name: str
    strength_model: float
    strength_clip: float
    block_weights: str | None = None


def read_tags(text: str, clip_first: bool = False) -> tuple[str, list[LoraTag]]:
    """(the text without its tags, the tags in order).

    clip_first: what two plain numbers mean: False model:clip, True clip:model. One number is both strengths, none is 1.
    Raises StrataError, showing the tag, for whatever is not wholly understood.
    """
    tags = [_read(match.group(0), match.group(1), clip_first) for match in _TAG.finditer(text)]
    if not tags:
        return text, tags
    # A tag usually stands between commas and spaces of its own; what it leaves behind must not pile up.
    cleaned = _TAG.sub("\0", text)
    cleaned = re.sub(r",[ \t]*\0(?=[ \t]*(,|$))", "", cleaned, flags=re.MULTILINE)
    cleaned = re.sub(r"[ \t]*\0[ \t]*(?=\n|$)|(?<![^\n])[ \t]*\0[ \t]*,?[ \t]*", "", cleaned)
    cleaned = re.sub(r"[ \t]*\0[ \t]*", " ", cleaned)
    return cleaned.strip(" \t"), tags


def _read(tag: str, body: str, clip_first: bool) -> LoraTag:
    name, *fields = body.split(":")
    if not name.strip():
        raise StrataError(f"{tag} names no LoRA. Write <lora:name:strength>.")
    numbers: list[float] = []
    keyed: dict[str, str] = {}
    last = None
    for field in fields:
        match = _KEYED.fullmatch(field)
        if match:
            last = {"te": "clip", "unet": "model", "w": "lbw"}.get(match.group(1).lower(), match.group(1).lower())
            if last in keyed:
                raise StrataError(f"{tag} gives {match.group(1)} twice.")
            keyed[last] = match.group(2).strip()
        elif last == "lbw":  # block names such as TE:clip_l have a colon of their own
            keyed["lbw"] += f":{field}"
        elif field.strip():
            numbers.append(_number(tag, field))
    for key in _SCHEDULES:
        if key in keyed:
            raise StrataError(
                f"{tag}: {key}= changes strength over time, which tags cannot do here. Use keyframes on a LoRA Loader."
            )
    unknown = keyed.keys() - {"clip", "model", "lbw", "x"}
    if unknown:
        raise StrataError(f"{tag}: {sorted(unknown)[0]}= is not known. Known are model=, clip=, unet=, te= and lbw=.")
    if len(numbers) > 2:
        raise StrataError(f"{tag} has {len(numbers)} numbers; at most two have a meaning.")
    first = numbers[0] if numbers else 1.0
    second = numbers[1] if len(numbers) > 1 else first
    model, clip = (second, first) if clip_first else (first, second)
    if "model" in keyed:
        model = _number(tag, keyed["model"])
        clip = clip if numbers or "clip" in keyed else model
    if "clip" in keyed:
        clip = _number(tag, keyed["clip"])
    lbw = keyed.get("lbw")
    if "x" in keyed:
        if lbw is None:
            raise StrataError(f"{tag}: x= is the X of an lbw= vector, and there is none.")
        lbw = f"lbw={lbw}:x={keyed['x']}"
    return LoraTag(name.strip(), model, clip, lbw)


def _number(tag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StrataError(
            f"{tag}: '{text.strip()}' is not a number. Write <lora:name:strength>, such as <lora:style:0.8>."
        )
    return value
