#!/usr/bin/env python3
"""Everything a developer of this pack runs, one command each. See ``python3 dev.py --help``."""

import argparse
import os
import sys
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036  for whoever starts it with an older one
    sys.exit(f"dev.py needs Python 3.10 or newer, and this is {sys.version_info[0]}.{sys.version_info[1]}.")

from devtools.cache import cache_root
from devtools.environment import ROOT, Environment, prepare, prepare_tests
from devtools.frontend import ENVIRONMENT as FRONTEND
from devtools.frontend import get_frontend
from devtools.install import SetupError
from devtools.processes import Running, wait_for

PYTEST = ("-m", "pytest", "-c", "tests/pytest.ini")
WORKERS = 2  # of the tests, at most: with its server each holds five gigabytes at times


def demo(environment: Environment, rest: list[str]) -> int:
    """Run the pack in a real ComfyUI on the CPU and write pictures to out/demo."""
    return _run(environment, "-m", "devtools.demo", "--comfyui", environment.comfyui, *rest)


def test(environment: Environment, rest: list[str], frontend: str | None = None) -> int:
    """Check the style (only without arguments), then run the tests; arguments go to pytest."""
    python = prepare_tests(environment)
    if frontend is not None:
        # Only a page in a browser meets it.
        where = [] if any((ROOT / argument.split("::")[0]).exists() for argument in rest) else ["tests/browser"]
        folder = get_frontend(environment.python, frontend)
        return _run(environment, *PYTEST, *where, *rest, python=python, more={FRONTEND: str(folder)})
    if not rest:
        for check in (["check"], ["format", "--check"]):
            if code := _run(environment, "-m", "ruff", *check, ".", python=python):
                return code
    if rest:
        # Options alone select from all tests.
        where = [] if any((ROOT / argument.split("::")[0]).exists() for argument in rest) else ["tests"]
        return _run(environment, *PYTEST, *where, *rest, python=python)
    # One thread for each: PyTorch's threads wait by spinning, and would take the other worker's core.
    alone = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    cores = os.cpu_count() or 1
    without = (*PYTEST, "tests", "--ignore=tests/browser", "-n", min(cores, WORKERS), "--dist", "worksteal")
    browser = (*PYTEST, "tests/browser")
    if cores == 1:
        code = _run(environment, *without, python=python, more=alone)
        return _run(environment, *browser, python=python) or code
    # A page waits for clocks half of the time, but has deadlines: it goes first, and the rest takes what it leaves.
    parts = (
        _start(environment, *browser, python=python, name="browser"),
        _start(environment, *without, python=python, more=alone, name="rest", yields=True),
    )
    return max(wait_for(*parts), key=abs)


def serve(environment: Environment, rest: list[str]) -> int:
    """Start that ComfyUI with the pack and the trained toy in it, until Ctrl+C."""
    return _run(environment, "-m", "devtools.serve", "--comfyui", environment.comfyui, *rest)


def toy(environment: Environment, rest: list[str]) -> int:
    """Copy the trained toy's files into a ComfyUI's models folder: that of the ComfyUI in use, or the one named."""
    return _run(environment, "-m", "devtools.toy.install", "--comfyui", environment.comfyui, *rest)


def train_toy(environment: Environment, rest: list[str]) -> int:
    """Train the toy anew from an npm package of drawings; about forty minutes of processor time, and it goes on where it was stopped."""
    python = prepare_tests(environment)
    return _run(environment, "-m", "devtools.train_toy", "--comfyui", environment.comfyui, *rest, python=python)


def examples(environment: Environment, rest: list[str]) -> int:
    """Build the example workflows anew in that ComfyUI's editor, with their pictures; needs Chromium."""
    python = prepare_tests(environment)
    return _run(environment, "-m", "devtools.examples", "--comfyui", environment.comfyui, *rest, python=python)


def bench(environment: Environment, rest: list[str]) -> int:
    """Measure; arguments go to benchmarks/run.py."""
    script = ROOT / "benchmarks" / "run.py"
    if not script.is_file():
        print("There is no benchmarks/run.py in this checkout.", file=sys.stderr)
        return 1
    return _run(environment, script, *rest)


def fuzz(environment: Environment, rest: list[str]) -> int:
    """Thousands of broken LoRA files against the whole way that a file goes; the same seed makes the same files (--cases, --seed)."""
    return _run(environment, ROOT / "tests" / "fuzz" / "run.py", *rest, python=prepare_tests(environment))


def _run(environment: Environment, *arguments: object, **how: Any) -> int:
    return wait_for(_start(environment, *arguments, **how))[0]


def _start(
    environment: Environment,
    *arguments: object,
    python: object = None,
    more: dict[str, str] | None = None,
    name: str | None = None,
    yields: bool = False,
) -> Running:
    command = [str(part) for part in (python or environment.python, *arguments)]
    env = {**os.environ, "COMFYUI_PATH": str(environment.comfyui), **(more or {})}
    if env.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Compiling torch and ComfyUI anew takes every process seven seconds. Kept, but not beside anybody's files.
        env.setdefault("PYTHONPYCACHEPREFIX", str(cache_root() / "bytecode"))
    return Running(command, ROOT, env, name, yields)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for run in (demo, test, serve, toy, examples, bench, fuzz, train_toy):
        text = run.__doc__ or ""
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.add_argument(
            "--comfyui",
            metavar="PATH",
            help="a ComfyUI folder to use as it is (default: COMFYUI_PATH, then the ComfyUI this pack is installed "
            "in, then one that is set up once in your cache folder)",
        )
        command.set_defaults(run=run)
        if run is serve:
            command.add_argument("--port", default="8188", help="default: 8188")
        if run is test:
            command.add_argument(
                "--frontend",
                metavar="VERSION",
                help='run the browser tests on this version of ComfyUI\'s editor, from PyPI, or on the "newest" (default: the one '
                "that belongs to the ComfyUI)",
            )
    options, rest = parser.parse_known_args()
    if options.command == "serve":
        rest = ["--port", options.port, *rest]
    more = {"frontend": options.frontend} if options.command == "test" else {}
    try:
        return options.run(prepare(options.comfyui), rest, **more)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
