"""Which file a MODEL was loaded from."""

from __future__ import annotations

import os


def model_file(model) -> str:
    """Its name without folders, as ComfyUI's own loaders leave word of it; empty where nobody does."""
    loading = getattr(model, "cached_patcher_init", None)
    # (the function that loads it anew, its arguments), the path first.
    arguments = loading[1] if isinstance(loading, tuple) and len(loading) > 1 else None
    path = arguments[0] if isinstance(arguments, (tuple, list)) and arguments else None
    return os.path.basename(path) if isinstance(path, str) else ""
