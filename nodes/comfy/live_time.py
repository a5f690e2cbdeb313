"""Strength over time as ComfyUI's nodes send it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lora_math.errors import StrataError
from .internals import need
from .patch import FURTHEST

if TYPE_CHECKING:
    import comfy.hooks


def read_keyframes(value) -> comfy.hooks.HookKeyframeGroup | None:
    """What came over a HOOK_KEYFRAMES wire, with numbers that a LoRA can be multiplied by. Raises StrataError for anything else."""
    if value is None:
        return None
    if isinstance(value, need("comfy.hooks", "HookKeyframeGroup", "Strength over time by keyframes")):
        for keyframe in value.keyframes:
            for name in ("strength", "start_percent"):
                number = getattr(keyframe, name)
                if not abs(number) <= FURTHEST:
                    raise StrataError(
                        f"keyframes: a keyframe at {100 * keyframe.start_percent:g} % has {name} {number:g}. "
                        "Give it a number that a LoRA can have (-100 to 100)."
                    )
        return value
    raise StrataError(
        f"The keyframes input takes HOOK_KEYFRAMES, from 'Create Hook Keyframe', not a {type(value).__name__}."
    )


def furthest(value: comfy.hooks.HookKeyframeGroup | None) -> float:
    """The largest absolute strength that it ever has."""
    return 1.0 if value is None else max((abs(keyframe.strength) for keyframe in value.keyframes), default=1.0)
