"""Where this pack keeps what a user made: a folder of its own in ComfyUI's user directory."""

from __future__ import annotations

import os

import folder_paths


def user_file(name: str) -> str:
    """Full path of a file of this pack in the user directory; neither the file nor its folder need exist."""
    return os.path.join(folder_paths.get_user_directory(), "default", "strata", name)
