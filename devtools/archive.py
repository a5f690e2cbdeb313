"""What the registry publishes: every file in git but those that .comfyignore names, as ``comfy node pack`` (comfy-cli 1.23) does it."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from .server import ROOT


def published_files(root: Path = ROOT) -> list[str]:
    """Their names in the archive, relative to the checkout ``root``.

    Raises:
        subprocess.CalledProcessError: ``root`` is no git checkout.
    """
    ignored = _ls_files(root, "--cached", "--ignored", "--exclude-from=.comfyignore")
    return sorted(_ls_files(root) - ignored)


def write_archive(path: Path, root: Path = ROOT) -> None:
    """Write the zip file that a user's Manager downloads and unpacks into custom_nodes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in published_files(root):
            archive.write(root / name, name)


def _ls_files(root: Path, *options: str) -> set[str]:
    # The checkout of a CI job often belongs to another user, which git refuses unless it is told.
    command = ["git", "-C", str(root), "-c", "safe.directory=*", "ls-files", "-z", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    return {name for name in done.stdout.split("\0") if name}
