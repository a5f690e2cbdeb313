"""ComfyUI's internals that one feature alone needs, looked up where that feature uses them.

Where a later ComfyUI has renamed one, that feature says so and does without; the nodes load, and everything else works. All internals
that the pack stands on, these and the ones that it cannot do without, are listed in docs/architecture.md.
"""

from __future__ import annotations

import importlib
import logging

from ...lora_math.errors import StrataError

# What the log has said already. Bounded by the calls of ``find`` in this folder.
_missed: set[str] = set()


def find(module: str, name: str, without: str):
    """ComfyUI's ``module.name``, or None where this ComfyUI has none: the log then says so, once, with what follows from it.

    without: the consequence as a whole sentence, for the person who reads the log.
    """
    found = _look_up(module, name)
    if found is None and f"{module}.{name}" not in _missed:
        _missed.add(f"{module}.{name}")
        logging.warning("[Strata] This ComfyUI has no %s.%s. %s", module, name, without)
    return found


def need(module: str, name: str, feature: str):
    """ComfyUI's ``module.name``. Raises StrataError where this ComfyUI has none.

    feature: what cannot work then, as the beginning of the error: it is followed by "cannot work with this ComfyUI".
    """
    found = _look_up(module, name)
    if found is None:
        raise StrataError(
            f"{feature} cannot work with this ComfyUI: it has no {module}.{name}. "
            "Update this pack (Strata), or go back to the ComfyUI that you had before."
        )
    return found


def _look_up(module: str, name: str):
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
