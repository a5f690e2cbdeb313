"""Which ComfyUI and which Python the development commands use.

A ComfyUI of the user's own is used as it is: nothing is ever installed into it. Without one, a pinned ComfyUI is set up
once in the user's cache folder and shared by every clone of this repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import cache
from .install import (
    COMFYUI_VERSION,
    HERE,
    TEST_REQUIREMENTS,
    SetupError,
    get_uv,
    make_venv,
    pins_hash,
    run,
    setup_comfyui,
    step,
    venv_python,
)

ROOT = HERE.parent
Say = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """A ComfyUI folder and the Python that runs it."""

    comfyui: Path
    python: Path
    ours: bool  # set up by us in the cache folder, with the test requirements in it


def find_comfyui(
    explicit: str | None = None, env: Mapping[str, str] | None = None, root: Path | None = None
) -> Path | None:
    """The ComfyUI named by ``--comfyui``, else by COMFYUI_PATH, else the one this pack is installed in, else None.

    Raises:
        SetupError: a folder was named, and it is not ComfyUI.
    """
    env = os.environ if env is None else env
    for source, named in (("--comfyui", explicit), ("COMFYUI_PATH", env.get("COMFYUI_PATH"))):
        if named:
            path = Path(named).expanduser().absolute()
            if not is_comfyui(path):
                raise SetupError(f"{source} names {path}, which is not ComfyUI: it has no main.py beside comfy/.")
            return path
    # A pack may be a symbolic link in custom_nodes: look from where it was reached as well as from where it really is.
    for pack in (root,) if root else (Path(os.path.abspath(sys.argv[0])).parent, ROOT):
        if pack.parent.name == "custom_nodes" and is_comfyui(pack.parent.parent):
            return pack.parent.parent
    return None


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir() and (folder / "nodes.py").is_file()


def find_python(comfyui: Path) -> Path:
    """The Python that belongs to a ComfyUI: its virtual environment, the portable build's, or the running one.

    Raises:
        SetupError: none of them has PyTorch.
    """
    own = [venv_python(comfyui / name) for name in (".venv", "venv")]
    own += [comfyui.parent / "python_embeded" / "python.exe"]
    for python in own:
        if python.is_file():
            return python
    if "torch" in installed(Path(sys.executable)):
        return Path(sys.executable)
    raise SetupError(
        f"No Python with PyTorch was found for {comfyui}: it has no .venv or venv folder, and {sys.executable} has no "
        "torch. Run dev.py with the Python that starts your ComfyUI."
    )


def installed(python: Path) -> dict[str, str]:
    """Name (lower case, with dashes) -> version of every package that ``python`` has."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({(d.metadata['Name'] or ''): d.version for d in m.distributions()}))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SetupError(f"{python} does not run:\n{done.stderr.strip()[-1000:]}")
    return {canonical(name): version for name, version in json.loads(done.stdout).items() if name}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def pinned(requirements: Path) -> dict[str, str]:
    """Name -> version of every ``name==version`` line."""
    lines = (line.split("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines())
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def prepare(comfyui: str | None = None, say: Say = print) -> Environment:
    """Find a ComfyUI or set one up; quick when there is nothing to do."""
    found = find_comfyui(comfyui)
    if found is not None:
        return Environment(found, find_python(found), ours=False)

    key = pins_hash()
    folder = cache.cache_root() / key
    ours = Environment(folder / "ComfyUI", venv_python(folder / "venv"), ours=True)

    def ready() -> bool:
        # is_file() follows the link: a Python that was uninstalled since leaves a broken one.
        return cache.is_ready(folder, key) and is_comfyui(ours.comfyui) and ours.python.is_file()

    if not ready():
        with cache.lock(folder.with_suffix(".lock"), lambda: say("Another setup is running; waiting for it.")):
            if not ready():
                say(f"Setting up ComfyUI {COMFYUI_VERSION} in {folder}. This happens once and takes a few minutes.")
                with step("everything", lambda text: say(text) if "done" in text else None):
                    setup_comfyui(folder, say)
                cache.mark_ready(folder, key)
    return ours


def prepare_tests(environment: Environment, say: Say = print) -> Path:
    """A Python that sees everything ComfyUI's does, and the test requirements.

    For a user's own ComfyUI that is a virtual environment in our cache, layered over its Python.
    """
    if environment.ours:
        return environment.python
    base = installed(environment.python)
    needed = pinned(TEST_REQUIREMENTS)
    if all(base.get(name) == version for name, version in needed.items()):
        return environment.python

    identity = json.dumps([str(environment.python), sorted(base.items()), sorted(needed.items())])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder = cache.cache_root() / f"tests-{key}"
    python = venv_python(folder / "venv")
    if not (cache.is_ready(folder, key) and python.is_file()):
        with cache.lock(folder.with_suffix(".lock"), lambda: say("Another setup is running; waiting for it.")):
            if not (cache.is_ready(folder, key) and python.is_file()):
                say(f"Installing the test tools in {folder}; your ComfyUI's own packages are not touched.")
                with step("pytest and the libraries that the tests compare with", say):
                    _layer_over(environment.python, base, needed, folder)
                cache.mark_ready(folder, key)
    return python


def _layer_over(base_python: Path, base: Iterable[str], needed: Iterable[str], folder: Path) -> None:
    """Make ``folder/venv`` from ``base_python``, seeing its packages, with only what is missing installed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "setup.log"
    _, uv = get_uv(folder / "uv", log)
    python = make_venv(folder / "venv", log, str(base_python))
    # An override with a marker that never holds takes the package out of the resolution: the base already has it.
    overrides = folder / "overrides.txt"
    present = sorted(set(base) - set(needed))
    overrides.write_text("".join(f"{name}; python_version < '0'\n" for name in present), encoding="utf-8")
    command = [uv, "pip", "install", "--python", python, "-r", TEST_REQUIREMENTS, "--overrides", overrides]
    run(command, log, "install the test tools")

    paths = _ask(base_python, "import json, site; print(json.dumps(site.getsitepackages()))")
    purelib = Path(_ask(python, "import json, sysconfig; print(json.dumps(sysconfig.get_path('purelib')))"))
    lines = [f"import site; site.addsitedir({path!r})\n" for path in paths]
    (purelib / "_comfyui_python.pth").write_text("".join(lines), encoding="utf-8")


def _ask(python: Path, code: str):
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
