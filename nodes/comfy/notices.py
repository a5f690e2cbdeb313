"""What a node has to say on itself: when it has no place of its own for it, or after it has run, while some later node samples."""

from __future__ import annotations

import logging

from .web_server import web_server


def tell(node: str | None, text: str) -> None:
    """Shows a line on a node in the browser, by ComfyUI's own text under a node, and in the log.

    node: the loader's id in the prompt that ran, None where it is not known. Without a server, only the log has it.
    """
    logging.warning("[Strata] %s", text)
    server = web_server()
    if node is not None and server is not None:
        server.send_progress_text(text, node)


def send(node: str | None, event: str, told: dict) -> None:
    """Tells the page something of a node that is running, under a name of this pack's own."""
    server = web_server()
    if node is not None and server is not None:
        server.send_sync(event, {"node": node, **told})
