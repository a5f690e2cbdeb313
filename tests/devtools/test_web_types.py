"""The browser's code against its own JSDoc types, by TypeScript's checker, and against its formatter; Deno carries both."""

import json
import os
import shutil
import subprocess

import pytest
from deno import find_deno_bin

from strata.devtools.server import ROOT

SETTINGS = ROOT / "deno.json"
FORMAT = "python -m deno fmt"


@pytest.fixture
def served(tmp_path):
    """The files at the places where a browser finds them; ComfyUI's own have the types of web/comfyui.d.ts."""
    shutil.copytree(ROOT / "web", tmp_path / "extensions" / "comfyui-strata")
    (tmp_path / "scripts").mkdir()
    for name in ("app", "api"):
        type_of = f"import('../extensions/comfyui-strata/comfyui.d.ts').{name.capitalize()}"
        (tmp_path / "scripts" / f"{name}.js").write_text(
            f"// @ts-check\nexport const {name} = /** @type {{{type_of}}} */ (/** @type {{unknown}} */ (null))\n"
        )
    options = json.loads(SETTINGS.read_text(encoding="utf-8"))["compilerOptions"]
    (tmp_path / "deno.json").write_text(json.dumps({"compilerOptions": options}))
    return tmp_path


def deno(folder, *arguments):
    """(exit status, what it printed). No network, and a cache that ends with the test."""
    environment = {**os.environ, "DENO_DIR": str(folder / "cache"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    command = [find_deno_bin(), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def check(served):
    return deno(served, "check", "--no-remote", "extensions")


def test_every_type_holds(served):
    files = sorted((served / "extensions").rglob("*.js"))
    assert files
    assert [file.name for file in files if not file.read_text(encoding="utf-8").startswith("// @ts-check")] == []
    code, told = check(served)
    assert code == 0, told


def test_wrong_types_are_found(served):
    """An argument of another type, a parameter of no type at all, and what a desk does not have."""
    wrong = """// @ts-check
import { setText } from './dom.js'
setText('no element', 1)
export const half = (value) => value / 2
/** @param {import('../desk/desk.js').DeskView} desk */
export const f = (desk) => desk.no_such_thing
"""
    (served / "extensions" / "comfyui-strata" / "lib" / "wrong.js").write_text(wrong, encoding="utf-8")
    code, told = check(served)
    assert code != 0
    assert all(f"wrong.js:{line}" in told for line in (3, 4, 6)), told


def test_nothing_is_of_any_type_but_what_comfyui_hands_over():
    """``any`` switches the checker off: it is left to callbacks and values that are ComfyUI's."""
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in sorted((ROOT / "web").rglob("*.js"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if "@type {any" in line or "{any}" in line or ("@ts-ignore" in line and "served by ComfyUI" not in line)
    ]
    assert found == []


def test_everything_is_formatted(tmp_path):
    shutil.copytree(ROOT / "web", tmp_path / "web")
    shutil.copy(SETTINGS, tmp_path)
    code, told = deno(tmp_path, "fmt", "--check")
    assert code == 0, f"Run {FORMAT!r} at the top of the checkout.\n\n{told}"


def test_what_is_not_formatted_is_found(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "ugly.js").write_text('const a  = "b";\n', encoding="utf-8")
    shutil.copy(SETTINGS, tmp_path)
    code, told = deno(tmp_path, "fmt", "--check")
    assert code != 0
    assert "ugly.js" in told
