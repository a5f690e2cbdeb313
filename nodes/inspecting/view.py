"""From a stack to everything that is shown of it: looked at once, drawn for whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...lora_math.errors import StrataError
from ...lora_math.inspecting.several import MAX_LORAS
from ..stack import StackEntry
from .look import NO_SIDES, One, Several, Sides, compare, look_at
from .picture_one import picture_of
from .picture_several import picture_of_several
from .saying import Say, english
from .shapes import Picture


@dataclass(frozen=True, eq=False)
class View:
    """together: None for one LoRA; notes: what was left out, and why."""

    ones: tuple[One, ...]
    together: Several | None
    notes: tuple[str, ...]

    def picture(self, width: float, say: Say = english) -> Picture:
        if self.together is None:
            return picture_of(self.ones[0], width, say)
        return picture_of_several(self.together, width, say)

    @property
    def verdict(self) -> str:
        return self.picture(400).said


def view(
    stack: Sequence[StackEntry], sides: Sides = NO_SIDES, owners=(None, None), tick: Callable[[], None] = lambda: None
) -> View:
    """Raises StrataError for a file that cannot be read, and for nothing to look at."""
    if not stack:
        raise StrataError("No LoRA is here to be inspected. Connect a LORA_STACK, or choose a LoRA.")
    notes = []
    if len(stack) > MAX_LORAS:
        notes.append(f"only the first {MAX_LORAS} of {len(stack)} LoRAs are looked at")
        stack = stack[:MAX_LORAS]
    ones = [look_at(entry, sides, owners, tick) for entry in stack]
    together = compare(ones, stack, sides, tick) if len(ones) > 1 else None
    return View(tuple(ones), together, tuple(notes))
