"""What the browser asks for, under ``/strata``. By LoRA name only; nothing is written but presets that a person saves or deletes.

An answer about something that a person chose or typed is 200, with ``{"error": "..."}`` where it cannot be used: the browser shows that
text in its place. Other statuses mean that the request itself is wrong.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import wraps

from aiohttp import web

from ..lora_math.blocks import FAMILIES, BlockTextError, Layout, builtin_layout, delete_preset, save_preset
from ..lora_math.errors import StrataError
from .desk import words as desk
from .desk.profile import profile
from .fitting.block_spec import BlockSpec, preset_names, presets_of, user_preset_file

MAX_BODY = 100_000  # bytes; a weights text is one line of at most 20 000 characters

Handler = Callable[[web.Request], Awaitable[dict]]


class BadRequest(ValueError):
    """A request that no part of this pack sends."""

    def __init__(self, text: str, status: int = 400):
        super().__init__(text)
        self.status = status


def register(server) -> None:
    """Adds the pack's routes to ComfyUI's server (a ``PromptServer``)."""
    routes = server.routes
    routes.get("/strata/lora")(_json(_lora))
    routes.get("/strata/layout")(_json(_layout))
    routes.post("/strata/weights")(_json(_weights))
    routes.get("/strata/presets")(_json(_presets))
    routes.post("/strata/presets")(_json(_save_preset))
    routes.delete("/strata/presets")(_json(_delete_preset))


def _json(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    @wraps(handler)
    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(await handler(request))
        except BadRequest as problem:
            return web.json_response({"error": str(problem)}, status=problem.status)
        except (StrataError, BlockTextError) as problem:
            return web.json_response({"error": str(problem)})

    return answer


async def _lora(request: web.Request) -> dict:
    """``?name=``: what the file is, its layout, and the LoRA's share in each block."""
    return (await asyncio.to_thread(profile, _query(request, "name"))).answer


async def _layout(request: web.Request) -> dict:
    """``?family=``: the faders of a family, when no LoRA says more."""
    layout = _builtin(_query(request, "family"))
    return {"family": layout.family, "groups": desk.groups(layout)}


async def _weights(request: web.Request) -> dict:
    """``{"text", "family" or null, "lora" or null, "seed", "invert"}``: what a text means there.

    ``invert``: the answer is about 1 minus each weight of the text.
    """
    body = await _body(request)
    text, family, lora = _text(body, "text"), _optional(body, "family"), _optional(body, "lora")
    seed, invert = body.get("seed", 0), body.get("invert", False)
    if not isinstance(seed, int) or not isinstance(invert, bool):
        raise BadRequest("seed is a whole number and invert true or false.")
    return await asyncio.to_thread(_read, text, family, lora, seed, invert)


def _read(text: str, family: str | None, lora: str | None, seed: int, invert: bool) -> dict:
    layout = _layout_for(text, family, lora, seed)
    spec = BlockSpec(text, family, seed)
    if invert:
        spec = BlockSpec(str(spec.read(layout).invert()), family, seed)
    return desk.settings(spec, layout)


def _layout_for(text: str, family: str | None, lora: str | None, seed: int) -> Layout:
    """As the node does: the family that was chosen, else the LoRA's model, else whatever can read the text."""
    found = None
    if lora is not None:
        try:
            found = profile(lora).layout
        except StrataError:
            found = None  # the desk shows what is wrong with the LoRA; the weights are still weights
    if family is not None:
        return found if found is not None and found.family == family else _builtin(family)
    return found if found is not None else desk.guess_layout(text, seed)


def _builtin(family: str) -> Layout:
    if family not in FAMILIES:
        raise BadRequest(f"There is no model family {family[:80]!r}.")
    return builtin_layout(family)


async def _presets(request: web.Request) -> dict:
    """``?family=`` (may be empty): presets that fit, the pack's and the person's own, and the names that the node's list has."""
    family = request.query.get("family") or None
    return await asyncio.to_thread(_list_presets, family)


def _list_presets(family: str | None) -> dict:
    shown = [
        {"name": p.name, "weights": p.weights, "about": p.about, "families": list(p.families), "user": p.user}
        for p in presets_of(family).values()
    ]
    return {"presets": shown, "names": preset_names()}


async def _save_preset(request: web.Request) -> dict:
    """``{"name", "weights", "family" or null, "about"}``"""
    body = await _body(request)
    name, family = _text(body, "name").strip(), _optional(body, "family")
    if name.lower() == "none":
        raise BlockTextError("'none' stands for no preset: choose another name.")
    about = body.get("about", "")
    if not isinstance(about, str):
        raise BadRequest("about is a text.")
    if family is not None:
        _builtin(family)
    await asyncio.to_thread(save_preset, user_preset_file(), family, name, _text(body, "weights"), about)
    return await asyncio.to_thread(_list_presets, family)


async def _delete_preset(request: web.Request) -> dict:
    """``{"name", "family" or null}``: the person's own of that name that this family has. Those of the pack cannot be deleted."""
    body = await _body(request)
    name, family = _text(body, "name"), _optional(body, "family")
    if family is not None:
        _builtin(family)
    if not await asyncio.to_thread(delete_preset, user_preset_file(), family, name):
        raise BlockTextError(f"{name[:80]!r} is not one of your own presets.")
    return await asyncio.to_thread(_list_presets, family)


def _query(request: web.Request, name: str) -> str:
    value = request.query.get(name, "")
    if not value or len(value) > 4096 or "\0" in value:
        raise BadRequest(f"{name} is missing.")
    return value


async def _body(request: web.Request) -> dict:
    if request.content_type != "application/json":
        raise BadRequest("Send JSON (Content-Type: application/json).", 415)
    if (request.content_length or 0) > MAX_BODY:
        raise BadRequest("This is too long.", 413)
    raw = bytearray()
    async for piece in request.content.iter_any():  # as many as the network made of it
        raw += piece
        if len(raw) > MAX_BODY:
            raise BadRequest("This is too long.", 413)
    try:
        body = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise BadRequest("This is not JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("Send a JSON object.")
    return body


def _text(body: dict, name: str) -> str:
    if not isinstance(body.get(name), str):
        raise BadRequest(f"{name} is a text.")
    return body[name]


def _optional(body: dict, name: str) -> str | None:
    return None if body.get(name) is None else _text(body, name)
