"""The picture of Inspect LoRA for the page, made of what stands in the nodes before it: nothing is run, and nothing is written."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from aiohttp import web

from ..lora_math.errors import StrataError
from . import inputs
from .desk.profile import met, shown_file
from .fitting.block_spec import BlockSpec
from .inspecting.themes import THEMES
from .lora_stack import choose
from .requests import BadRequest, as_json, body_of, optional_text, text_of
from .stack import StackEntry, of_tag

if TYPE_CHECKING:
    from .inspecting.look import Sides

# Bytes, as of rows.
MAX_BODY = 1_000_000
MAX_SOURCES = 64
# Its height in px.
WIDTHS = (220, 1600)

# Files are read and measured by all cores.
_one_at_a_time = threading.Lock()


@as_json
async def inspect(request: web.Request) -> dict:
    """``{"sources": [{"rows", "seed"} or {"name", "model", "clip", "blocks" or null}], "width", "theme", "language"}``: a picture.

    sources: what the nodes before it hold, in order; blocks: ``{"text", "family" or null, "seed", "invert"}``; width: px that there are;
    language: of the editor, English without.
    """
    body = await body_of(request, MAX_BODY)
    sources, width, theme = body.get("sources"), body.get("width"), text_of(body, "theme")
    if not isinstance(sources, list) or len(sources) > MAX_SOURCES or not all(isinstance(s, dict) for s in sources):
        raise BadRequest(f"sources is a list of at most {MAX_SOURCES} objects.")
    if isinstance(width, bool) or not isinstance(width, int) or not WIDTHS[0] <= width <= WIDTHS[1]:
        raise BadRequest(f"width is a whole number from {WIDTHS[0]} to {WIDTHS[1]}.")
    if theme not in THEMES:
        raise BadRequest(f"theme is one of {', '.join(THEMES)}.")
    language = optional_text(body, "language") or "en"
    return await asyncio.to_thread(_picture, sources, width, theme, language)


def _picture(sources: list[dict], width: int, theme: str, language: str = "en") -> dict:
    # What inspects is loaded when somebody inspects, and not with every start of ComfyUI.
    from .inspecting.saying import saying
    from .inspecting.view import MAX_LORAS, view

    stack, notes = [], []
    for source in sources:
        if len(stack) > MAX_LORAS:
            # What is not looked at is not read either, so that nobody knows how many there are.
            stack, notes = stack[:MAX_LORAS], [f"only the first {MAX_LORAS} LoRAs are looked at"]
            break
        stack += _entries(source)
    for entry in stack[:MAX_LORAS]:
        shown_file(entry[0])
    with _one_at_a_time:
        found = view(stack, _sides(stack))
    return {
        **found.picture(width, saying(language)).for_browser(),
        "colours": THEMES[theme],
        "notes": [*notes, *found.notes],
    }


def _entries(source: dict) -> list[StackEntry]:
    if "rows" in source:
        chosen = choose(text_of(source, "rows"), inputs.whole(source.get("seed"), "seed"))
        return [of_tag(tag) for tag in chosen.tags]
    strengths = [inputs.number(source.get(name), name) for name in ("model", "clip")]
    return [StackEntry(text_of(source, "name"), *strengths, _blocks(source.get("blocks")))]


def _blocks(given) -> BlockSpec | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise BadRequest("blocks is an object.")
    seed, invert = inputs.whole(given.get("seed"), "seed"), inputs.switch(given.get("invert"), "invert")
    return BlockSpec(text_of(given, "text"), optional_text(given, "family"), seed, invert)


def _sides(stack: list[StackEntry]) -> Sides:
    """The loaded model that these files have met, if any: all of them have to be measured on the same."""
    if not stack:
        raise StrataError("No LoRA is here to be inspected. Connect a LORA_STACK, or choose a LoRA.")
    model, clip = met(stack[0].opened())
    return (model[0] if model else None, clip[0] if clip else None)
