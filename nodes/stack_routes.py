"""What the rows of a LoRA Stack and the LoRA picker ask for. Only sets, favourites and what was used lately are written."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from ..lora_math.errors import StrataError
from ..lora_math.families import RELATIVES
from ..lora_math.regions import parse_region
from ..lora_math.schedule import canonical
from ..lora_math.tags import LoraTag, format_tag
from .comfy.library import shown_path
from .comfy.lora_names import lora_names
from .desk.profile import PREVIEWS, VIDEOS, beside
from .library.search import PAGE, SHOWN, SIZES, SORTS, Question, compare_contents, found_row, mark, search
from .requests import BadRequest, answered, as_json, body_of, optional_text, query, text_of
from .rows.importing import imported
from .rows.sets import delete_set, read_sets, save_set
from .rows.words import described, described_prompt

# The most bytes; fifty rows with notes are a hundredth of it.
MAX_ROWS_BODY = 1_000_000


@as_json
async def rows(request: web.Request) -> dict:
    """``{"text"}``: its rows, and the text that a prompt needs of it."""
    found = await asyncio.to_thread(described, text_of(await body_of(request, MAX_ROWS_BODY), "text"))
    return {**found, "relatives": [sorted(group) for group in RELATIVES]}


@as_json
async def prompt(request: web.Request) -> dict:
    """``{"text", "clip_first"}``: the tags of a prompt, and what stands between them."""
    body = await body_of(request, MAX_ROWS_BODY)
    clip_first = body.get("clip_first", False)
    if not isinstance(clip_first, bool):
        raise BadRequest("clip_first is true or false.")
    found = await asyncio.to_thread(described_prompt, text_of(body, "text"), clip_first)
    return {**found, "relatives": [sorted(group) for group in RELATIVES]}


@as_json
async def tag(request: web.Request) -> dict:
    """``{"name", "blocks", "time", "mask"}``, all but the name may be null: what stands before and behind the strengths in a tag of these.
    Raises StrataError for a strength over time, or a mask, that is none."""
    body = await body_of(request)
    blocks, time, mask = ((optional_text(body, name) or "").strip() or None for name in ("blocks", "time", "mask"))
    name = text_of(body, "name")
    head = format_tag(LoraTag(name, 1.0, 1.0)).removesuffix(":1>")
    region = None if mask is None else parse_region(mask)
    over_time = None if time is None else canonical(time)
    whole = format_tag(LoraTag(name, 1.0, 1.0, blocks, time=over_time, region=region))
    return {"head": head, "tail": whole[len(head) + 2 : -1]}


@as_json
async def import_rows(request: web.Request) -> dict:
    """``{"text"}``: what a pasted text or another pack's node comes to as rows."""
    body = await body_of(request, MAX_ROWS_BODY)
    return {"text": await asyncio.to_thread(imported, text_of(body, "text"))}


@as_json
async def library(request: web.Request) -> dict:
    """``?words=&folder=&fits=&sort=&favourites=&start=&count=&family=&size=&shown=``: a page of the LoRA files that these ask for."""
    asked = request.query
    sort, fits = asked.get("sort", "name"), asked.get("fits") or None
    if sort not in SORTS:
        raise BadRequest(f"sort is one of {', '.join(SORTS)}.")
    try:
        start, count = int(asked.get("start", 0)), int(asked.get("count", 50))
    except ValueError:
        raise BadRequest("start and count are whole numbers.") from None
    if start < 0 or not 0 < count <= PAGE:
        raise BadRequest(f"count is at most {PAGE}, and start at least 0.")
    size, shown = asked.get("size") or None, asked.get("shown", "all")
    if (size is not None and size not in SIZES) or shown not in SHOWN:
        raise BadRequest(f"size is one of {', '.join(SIZES)}, and shown one of {', '.join(SHOWN)}.")
    question = Question(
        asked.get("words", ""),
        asked.get("folder", ""),
        fits,
        sort,
        asked.get("favourites") == "1",
        start,
        count,
        asked.get("family") or None,
        size,
        shown,
    )
    return await asyncio.to_thread(search, question)


@as_json
async def compare(request: web.Request) -> dict:
    """``{"go": true or false}``: starts reading and comparing the contents of all files, or stops it. Gives how far it is."""
    go = (await body_of(request)).get("go")
    if not isinstance(go, bool):
        raise BadRequest("go is true or false.")
    return await asyncio.to_thread(compare_contents, go)


@answered
async def shown_video(request: web.Request) -> web.StreamResponse:
    """``?name=``: the video that lies beside a LoRA."""
    return await _beside(query(request, "name"), VIDEOS, "There is no video beside this LoRA.")


@answered
async def shown_picture(request: web.Request) -> web.StreamResponse:
    """``?name=``: the picture that lies beside a LoRA, for names that ComfyUI's own endpoint takes for patterns."""
    return await _beside(query(request, "name"), PREVIEWS, "There is no picture beside this LoRA.")


async def _beside(name: str, kinds: dict[str, str], nothing: str) -> web.StreamResponse:
    found = await asyncio.to_thread(_file_beside, name, kinds)
    if found is None:
        raise BadRequest(nothing, 404)
    kind = kinds[os.path.splitext(found)[1].lower()]
    headers = {"Content-Type": kind, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return web.FileResponse(found, headers=headers)


def _file_beside(name: str, kinds: dict[str, str]) -> str | None:
    path = shown_path(name) if name in lora_names() else None
    return None if path is None else beside(path, kinds)


@as_json
async def mark_file(request: web.Request) -> dict:
    """``{"name", "favourite": true, false or absent, "used": true or absent}``. Gives what is known of the file now."""
    body = await body_of(request)
    name, favourite, used = text_of(body, "name"), body.get("favourite"), body.get("used", False)
    if favourite not in (None, True, False) or not isinstance(used, bool):
        raise BadRequest("favourite and used are true or false.")
    if name not in await asyncio.to_thread(lora_names):
        raise BadRequest("There is no such LoRA.")
    try:
        await asyncio.to_thread(mark, name, favourite, used)
    except OSError as problem:
        raise StrataError(f"This cannot be remembered: {problem.strerror or problem}.") from None
    return await asyncio.to_thread(found_row, name)


@as_json
async def sets(request: web.Request) -> dict:
    """The sets that a person has kept."""
    return {"sets": await asyncio.to_thread(read_sets)}


@as_json
async def keep_set(request: web.Request) -> dict:
    """``{"name", "rows"}``"""
    body = await body_of(request, MAX_ROWS_BODY)
    await asyncio.to_thread(save_set, text_of(body, "name"), text_of(body, "rows"))
    return {"sets": await asyncio.to_thread(read_sets)}


@as_json
async def drop_set(request: web.Request) -> dict:
    """``{"name"}``"""
    await asyncio.to_thread(delete_set, text_of(await body_of(request), "name"))
    return {"sets": await asyncio.to_thread(read_sets)}
