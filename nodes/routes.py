"""What the browser asks for, under ``/strata``.

What answers is loaded when the page asks for the first time, and not with every start of ComfyUI.
"""

from __future__ import annotations

from importlib import import_module

from aiohttp import web


def register(server) -> None:
    """Adds the pack's routes to ComfyUI's server (a ``PromptServer``)."""
    routes = server.routes
    routes.get("/strata/lora")(_of("desk_routes", "lora"))
    routes.get("/strata/carried")(_of("desk_routes", "carried_blocks"))
    routes.get("/strata/layout")(_of("desk_routes", "layout"))
    routes.post("/strata/weights")(_of("desk_routes", "weights"))
    routes.get("/strata/presets")(_of("desk_routes", "presets"))
    routes.post("/strata/presets")(_of("desk_routes", "keep_preset"))
    routes.delete("/strata/presets")(_of("desk_routes", "drop_preset"))
    routes.post("/strata/schedule")(_of("desk_routes", "strength_over_time"))
    routes.post("/strata/noise")(_of("desk_routes", "noise_of_steps"))
    routes.post("/strata/rows")(_of("stack_routes", "rows"))
    routes.post("/strata/prompt")(_of("stack_routes", "prompt"))
    routes.post("/strata/tag")(_of("stack_routes", "tag"))
    routes.post("/strata/import")(_of("stack_routes", "import_rows"))
    routes.get("/strata/library")(_of("stack_routes", "library"))
    routes.get("/strata/video")(_of("stack_routes", "shown_video"))
    routes.get("/strata/picture")(_of("stack_routes", "shown_picture"))
    routes.post("/strata/library/mark")(_of("stack_routes", "mark_file"))
    routes.post("/strata/library/contents")(_of("stack_routes", "compare"))
    routes.get("/strata/sets")(_of("stack_routes", "sets"))
    routes.post("/strata/sets")(_of("stack_routes", "keep_set"))
    routes.delete("/strata/sets")(_of("stack_routes", "drop_set"))
    routes.post("/strata/inspect")(_of("inspect_routes", "inspect"))


def _of(module: str, name: str):
    """The handler of this name in a module beside this one."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await getattr(import_module(f".{module}", __package__), name)(request)

    return answer
