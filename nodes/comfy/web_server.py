"""The server that ComfyUI runs in."""

from __future__ import annotations

from .internals import find


def web_server():
    """ComfyUI's ``PromptServer``, which routes are added to; None where ComfyUI is used as a library, without a server."""
    kind = find("server", "PromptServer", "The editor's desk and presets do not work; the nodes do.")
    return getattr(kind, "instance", None)


def is_busy() -> bool:
    """Whether ComfyUI runs a prompt, or has one waiting."""
    server = web_server()
    return server is not None and server.get_queue_info()["exec_info"]["queue_remaining"] > 0
