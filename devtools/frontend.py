"""Other versions of ComfyUI's editor than the one that its requirements name. They come from PyPI and stay in the cache folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import cache
from .install import SetupError, run, step

PACKAGE = "comfyui-frontend-package"
FOLDER = "comfyui_frontend_package/static"  # in the installed package: what ComfyUI's --front-end-root takes
# The newest that the browser tests were written against; .ci/run runs a part of them on it. "newest" asks PyPI.
NEWEST = "1.58.1"
ENVIRONMENT = "STRATA_FRONTEND"  # tells the tests the folder

Say = Callable[[str], None]


def get_frontend(python: Path, version: str, say: Say = print) -> Path:
    """The folder with a version of the editor, for ``--front-end-root``; downloaded once.

    version: as PyPI has it ("1.58.1"), or "newest". python: one that has pip; nothing is installed into it.

    Raises:
        SetupError: there is no such version, or it cannot be downloaded.
    """
    root = cache.cache_root()
    if version != "newest":
        known = root / f"frontend-{version}"
        if cache.is_ready(known, version):
            return known / FOLDER
    with cache.lock(root / "frontend.lock", lambda: say("Another download is running; waiting for it.")):
        work = Path(tempfile.mkdtemp(prefix="frontend-", dir=root))
        try:
            what = PACKAGE if version == "newest" else f"{PACKAGE}=={version}"
            with step(f"ComfyUI's editor, {version}", say):
                run(
                    [python, "-m", "pip", "install", "--no-deps", "--target", work / "new", what],
                    root / "frontend.log",
                    f"download {what}",
                )
            infos = (work / "new").glob("comfyui_frontend_package-*.dist-info")
            found = [path.name.removesuffix(".dist-info").split("-")[1] for path in infos]
            if len(found) != 1 or not (work / "new" / FOLDER / "index.html").is_file():
                raise SetupError(f"{what} is not built as expected: there is no {FOLDER}/index.html in it.")
            folder = root / f"frontend-{found[0]}"
            shutil.rmtree(folder, ignore_errors=True)
            (work / "new").rename(folder)
            cache.mark_ready(folder, folder.name.removeprefix("frontend-"))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    say(f"The editor is version {folder.name.removeprefix('frontend-')}.")
    return folder / FOLDER
