"""Strata: LoRA strength, layer by layer. Entry point for ComfyUI; nothing else lives here."""

import sys

WEB_DIRECTORY = "./web"

# pytest imports the __init__.py of every folder above a test, with no ComfyUI behind it. It must find no work here.
if "pytest" not in sys.modules:
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
