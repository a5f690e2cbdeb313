"""Writes ``docs/compatibility.md``. Needs COMFYUI_PATH, as the tests do."""

import sys
from pathlib import Path


def main() -> None:
    tests = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(tests))
    import conftest  # noqa: F401 - makes the pack and ComfyUI importable

    from strata.tests.nodes.helpers import compatibility

    compatibility.TABLE.parent.mkdir(exist_ok=True)
    compatibility.TABLE.write_text(compatibility.markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
