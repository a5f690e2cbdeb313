"""docs/lora_math.md does what it says: its Python runs in the pack's folder, without ComfyUI, and its commands are understood."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from strata.lora_math.command_line import _parser

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "lora_math.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_of_the_page_runs():
    code = (
        "\n".join(blocks("python")) + "\nimport sys\nassert not {'comfy', 'nodes', 'folder_paths'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_its_commands_are_commands():
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert {line.split()[3] for line in lines} == {"inspect", "library", "merge", "resize", "convert", "extract"}
    for line in lines:
        assert shlex.split(line)[:3] == ["python", "-m", "lora_math"]
        assert _parser().parse_args(shlex.split(line)[3:]).run
