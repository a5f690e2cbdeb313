"""The browser's code against its own JSDoc types, by TypeScript's checker (which Deno carries)."""

import json
import os
import shutil
import subprocess

import pytest
from deno import find_deno_bin

from strata.devtools.server import ROOT

# Without a type, a value may be anything; with one, null and undefined are looked at too.
OPTIONS = {
    "checkJs": True,
    "strict": True,
    "noImplicitAny": False,
    "noImplicitThis": False,
    "lib": ["dom", "dom.iterable", "esnext"],
}


@pytest.fixture
def served(tmp_path):
    """The files at the places where a browser finds them; ComfyUI's own are of type any."""
    shutil.copytree(ROOT / "web", tmp_path / "extensions" / "comfyui-strata")
    (tmp_path / "scripts").mkdir()
    for name in ("app", "api"):
        (tmp_path / "scripts" / f"{name}.js").write_text(f"/** @type {{any}} */\nexport const {name} = {{}}\n")
    (tmp_path / "deno.json").write_text(json.dumps({"compilerOptions": OPTIONS}))
    return tmp_path


def check(served):
    environment = {**os.environ, "DENO_DIR": str(served / "cache"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    command = [find_deno_bin(), "check", "--no-remote", "extensions"]
    done = subprocess.run(command, cwd=served, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_every_type_holds(served):
    files = sorted((served / "extensions").rglob("*.js"))
    assert files
    assert [file.name for file in files if not file.read_text(encoding="utf-8").startswith("// @ts-check")] == []
    code, told = check(served)
    assert code == 0, told


def test_a_wrong_argument_is_found(served):
    wrong = served / "extensions" / "comfyui-strata" / "lib" / "wrong.js"
    wrong.write_text("// @ts-check\nimport { setText } from './dom.js'\nsetText('no element', 1)\n", encoding="utf-8")
    code, told = check(served)
    assert code != 0
    assert "wrong.js:3" in told
