"""The archive that the registry would publish: what is in it, and that it runs on a ComfyUI that has nothing else of ours."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from strata.devtools.archive import published_files, write_archive
from strata.devtools.model_cache import demo_models, link_models
from strata.devtools.prompts import small
from strata.devtools.served_toy import WORKFLOW, on_the_toy
from strata.devtools.server import ROOT, ComfyServer
from strata.devtools.workflow import to_prompt

NODES = sorted(
    re.search(r'node_id="(\w+)"', path.read_text())[1]
    for path in (ROOT / "nodes").glob("*.py")
    if "node_id=" in path.read_text()
)
TOP = {
    "__init__.py",
    "nodes",
    "lora_math",
    "web",
    "locales",
    "example_workflows",
    "docs",
    "pyproject.toml",
    "requirements.txt",
    "LICENSE",
    "README.md",
    "README.zh-CN.md",
    "CHANGELOG.md",
    "SECURITY.md",
}
ENDINGS = {".py", ".js", ".css", ".json", ".md", ".png", ".jpg", ".webp", ".toml", ".txt", ""}
LIMIT = 1_500_000  # bytes, packed: a megabyte of it is for pictures


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    checkout = ROOT
    if not (ROOT / ".git").exists():  # sources without their history: everything that git would take
        checkout = folder / "checkout"
        shutil.copytree(ROOT, checkout, symlinks=True)
        git(checkout, "init", "-q")
        git(checkout, "add", "-A")
    write_archive(folder / "node.zip", checkout)
    return folder / "node.zip"


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory, comfyui):
    """A server whose only custom node is the unpacked archive, under the name that Manager gives it."""
    base = tmp_path_factory.mktemp("base")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "custom_nodes" / "strata-lora")
    link_models(demo_models(comfyui, say=lambda text: None), base)
    # Nothing of this checkout can be imported there.
    with ComfyServer(comfyui, base=base, pack=None, env={"PYTHONPATH": ""}) as server:
        yield server


def git(folder, *arguments):
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def test_it_is_what_git_has_without_what_comfyignore_names(tmp_path):
    left_out = ("tests/t.py", "dev.py", "secret.env", "built/x.pyc", "new.txt")
    for name in ("a.py", "sub/b c.js", "sub/tests/kept.py", *left_out):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("built/\n")
    (tmp_path / ".comfyignore").write_text("# not for users\n/tests/\ndev.py\n.*\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a.py", "sub", "tests", "dev.py", ".gitignore", ".comfyignore")
    assert published_files(tmp_path) == ["a.py", "sub/b c.js", "sub/tests/kept.py"]
    write_archive(tmp_path / "node.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "node.zip") as packed:
        assert packed.namelist() == published_files(tmp_path)


def test_it_holds_what_it_must_and_nothing_else(archive):
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
    assert {name.split("/")[0] for name in names} == TOP
    assert {Path(name).suffix for name in names} <= ENDINGS
    # git quotes other names, and comfy-cli then leaves them out without a word.
    assert all(re.fullmatch(r"[\w ./-]+", name, re.ASCII) for name in names)
    for node in NODES:
        assert {f"web/docs/{node}.md", f"web/docs/{node}/zh.md"} <= set(names)
    for name in names:
        if name.startswith("example_workflows/") and name.endswith(".json"):
            assert name.removesuffix(".json") + ".jpg" in names
    assert archive.stat().st_size < LIMIT


def test_the_registrys_own_check_finds_nothing(archive, tmp_path):
    """``comfy node validate`` of comfy-cli 1.23 runs these rules of ruff."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    command = [sys.executable, "-m", "ruff", "check", "-q", "--isolated", "--no-cache", "--select=S102,S307,E702"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_comfy_test_passes_it(installed, tmp_path):
    """The levels of comfy-test 0.4.15 that need no network and no browser of its own.

    Its INSTANTIATION imports ComfyUI without ``--cpu``, which fails where no GPU is; its VALIDATION does not know the value that
    ``control_after_generate`` adds to a seed in a saved workflow, ComfyUI's own KSampler included.
    """
    pack = installed.base / "custom_nodes" / "strata-lora"
    levels = ("syntax", "warnings", "hazards", "registration", "javascript")
    settings = tmp_path / "comfy-test.toml"
    settings.write_text(f"[test]\nlevels = {json.dumps(levels)}\n")
    program = Path(sys.executable).with_name("comfy-test")
    command = [program, "run", "--server-url", installed.url, "--config", settings]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=pack, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for level in levels:
        assert f"[{level.upper()}] PASSED" in done.stdout


def test_a_fresh_comfyui_with_it(installed):
    info = installed.object_info()
    ours = {name: node for name, node in info.items() if node["python_module"] == "custom_nodes.strata-lora"}
    assert set(ours) == set(NODES)
    examples = installed.get_json("/workflow_templates")["strata-lora"]
    # The toy stays in the source, and so do the workflows that need it.
    of_toy = [path.stem for path in on_the_toy()]
    assert WORKFLOW.stem in of_toy
    assert sorted([*examples, *of_toy]) == sorted(path.stem for path in WORKFLOW.parent.glob("*.json"))
    urls = [
        f"/api/workflow_templates/strata-lora/{quote(name)}.{kind}" for name in examples for kind in ("json", "jpg")
    ]
    urls += [f"/extensions/strata-lora/docs/{node}{page}.md" for node in NODES for page in ("", "/zh")]
    urls += [
        "/extensions/strata-lora/strata.css",
        "/extensions/strata-lora/desk/fader.css",
        "/extensions/strata-lora/docs/images/strengths.webp",
    ]
    scripts = [url for url in installed.get_json("/extensions") if "strata" in url]
    assert "/extensions/strata-lora/strata.js" in scripts
    assert all(installed.get(url) for url in [*urls, *scripts])
    translated = installed.get_json("/i18n")
    assert all(node in translated[language]["nodeDefs"] for node in NODES for language in ("en", "zh"))


def test_it_runs_its_example_in_silence(installed):
    workflow = json.loads(installed.get(f"/api/workflow_templates/strata-lora/{quote('LoRA on SD1.5')}.json"))
    prompt = small(to_prompt(workflow, installed.object_info()), size=64, steps=1)
    assert Image.open(io.BytesIO(installed.image(installed.run(prompt)))).size == (64, 64)
    log = installed.log()
    assert "Traceback" not in log
    # ComfyUI itself writes how long each pack took to import, and where it lies: this checkout's cache has a like name.
    ours = re.compile(r"(?<!comfyui-)strata", re.IGNORECASE)
    assert not [line for line in log.splitlines() if ours.search(line) and not re.search(r"\d seconds: ", line)]


def test_many_files_are_listed_once(installed):
    """What the browser loads at every start: the names of the LoRAs once, and not once for each input or node."""
    size = lambda node: len(json.dumps(installed.object_info(node)))  # noqa: E731
    before = {node: size(node) for node in NODES}
    loras = installed.base / "models" / "loras"
    names = [f"some folder/{number:04d} a lora with a usual name.safetensors" for number in range(2000)]
    (loras / "some folder").mkdir()
    for name in names:
        (loras / name).touch()
    try:
        assert len(installed.get_json("/models/loras")) >= 2000
        grown = {node: size(node) - before[node] for node in NODES}
    finally:
        for name in names:
            (loras / name).unlink()
    assert grown.pop("StrataLoraLoader") == len(json.dumps(names)) - len("[]") + len(", ")
    assert set(grown.values()) == {0}
