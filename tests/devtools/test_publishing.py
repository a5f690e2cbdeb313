"""What the registry wants of pyproject.toml and the pictures (https://docs.comfy.org/registry/specifications), and GitHub's workflows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from comfy_config.config_parser import extract_node_configuration
from PIL import Image

from strata.devtools.server import ROOT

RAW = "https://raw.githubusercontent.com/strata-lora/comfyui-strata/main/"


@pytest.fixture(scope="module")
def config():
    return extract_node_configuration(str(ROOT))


def workflow(name):
    found = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    return {**found, "on": found[True]}  # YAML 1.1 takes the word "on" for true


def test_the_project_table(config):
    project = config.project
    assert re.fullmatch(r"[A-Za-z]([._-]?[A-Za-z0-9]+)*", project.name)
    assert len(project.name) < 100
    assert "comfyui" not in project.name.lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert project.description
    assert (ROOT / project.license.file).is_file()
    assert project.urls.repository == "https://github.com/strata-lora/comfyui-strata"
    assert project.supported_os == ["OS Independent"]
    assert project.supported_accelerators == []
    # comfy-cli's pattern: anything else is dropped with a warning.
    assert re.fullmatch(r"(==|>=|<=|!=|~=|>|<)\s*\d+\.\d+\.\d+", project.supported_comfyui_version)


def test_nothing_is_installed_into_a_users_python(config):
    assert config.project.dependencies == []
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.strip() and not line.startswith("#")]
    assert not (ROOT / "install.py").exists()


def test_icon_and_banner(config):
    """A square of at most 400 pixels, and 21:9; where they are said to be."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert config.tool_comfy.icon == re.search('^Icon = "(.+)"$', text, re.MULTILINE)[1]
    # ComfyUI's parser passes over Banner; comfy-cli's reads it.
    icon, banner = (
        Image.open(ROOT / re.search(f'^{key} = "{RAW}(.+)"$', text, re.MULTILINE)[1]) for key in ("Icon", "Banner")
    )
    assert icon.size[0] == icon.size[1] <= 400
    assert banner.size[0] * 9 == banner.size[1] * 21
    assert config.tool_comfy.publisher_id
    assert config.tool_comfy.display_name
    # With WEB_DIRECTORY in __init__.py this would serve, and run, every script twice.
    assert not config.tool_comfy.web


def test_a_new_version_is_published_from_main():
    publish = workflow("publish.yml")
    assert publish["on"]["push"] == {"branches": ["main"], "paths": ["pyproject.toml"]}
    (job,) = publish["jobs"].values()
    (step,) = (step for step in job["steps"] if step.get("uses", "").startswith("Comfy-Org/publish-node-action@"))
    assert step["with"] == {"personal_access_token": "${{ secrets.REGISTRY_ACCESS_TOKEN }}"}


def test_every_change_is_tested():
    tested = workflow("test.yml")
    assert {"push", "pull_request"} <= tested["on"].keys()
    (job,) = tested["jobs"].values()
    assert job["steps"][-1]["run"].endswith(".ci/run")
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert "python3 dev.py test" in lines
    assert any("dev.py test --frontend" in line for line in lines)


def test_comfy_tests_own_lint_finds_nothing():
    """Its static rules: ComfyUI's layers and loaders, names of extensions, nothing put into the page that other packs share."""
    command = [Path(sys.executable).with_name("comfy-test"), "lint", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[SYNTAX] PASSED" in done.stdout
    assert "[JAVASCRIPT] PASSED" in done.stdout


def test_the_changelog_knows_the_version(config):
    assert f"## {config.project.version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
