"""Requests of the browser, read and answered: what every route of this pack does alike.

An answer about something that a person chose or typed is 200, with ``{"error": "..."}`` where it cannot be used: the browser shows that
text in its place. Other statuses mean that the request itself is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import wraps

from aiohttp import web

from ..lora_math.blocks import BlockTextError
from ..lora_math.errors import StrataError

# The most bytes; a weights text is one line of at most 20 000 characters.
MAX_BODY = 100_000

Handler = Callable[[web.Request], Awaitable[dict]]


class BadRequest(ValueError):
    """A request that no part of this pack sends."""

    def __init__(self, text: str, status: int = 400):
        super().__init__(text)
        self.status = status


def as_json(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    @wraps(handler)
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(await handler(request))

    return answered(answer)


def answered(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]):
    """The handler of a route, which answers in words where something is wrong."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except BadRequest as problem:
            return web.json_response({"error": str(problem)}, status=problem.status)
        except (StrataError, BlockTextError) as problem:
            return web.json_response({"error": str(problem)})

    return answer


def query(request: web.Request, name: str) -> str:
    value = request.query.get(name, "")
    if not value or len(value) > 4096 or "\0" in value:
        raise BadRequest(f"{name} is missing.")
    return value


async def body_of(request: web.Request, limit: int = MAX_BODY) -> dict:
    """The JSON object that was sent. ``limit``: bytes of it."""
    if request.content_type != "application/json":
        raise BadRequest("Send JSON (Content-Type: application/json).", 415)
    if (request.content_length or 0) > limit:
        raise BadRequest("This is too long.", 413)
    raw = bytearray()
    # There are as many pieces as the network made of it.
    try:
        async for piece in request.content.iter_any():
            raw += piece
            if len(raw) > limit:
                raise BadRequest("This is too long.", 413)
    except web.RequestPayloadError:
        raise BadRequest("The body is not packed as its Content-Encoding says.") from None
    try:
        body = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise BadRequest("This is not JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("Send a JSON object.")
    return body


def text_of(body: dict, name: str) -> str:
    if not isinstance(body.get(name), str):
        raise BadRequest(f"{name} is a text.")
    return body[name]


def optional_text(body: dict, name: str) -> str | None:
    return None if body.get(name) is None else text_of(body, name)
