#!/usr/bin/env python3
"""Measures this pack against ComfyUI's own LoRA loader in one process and writes RESULTS.md: ``python3 dev.py bench [--quick]``."""

import argparse
import contextlib
import io
import os
import sys
import time
import types
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="some of the cases, with fewer rounds; prints them beside the results that are checked in, and writes nothing",
    )
    parser.add_argument(
        "--only",
        metavar="PART",
        nargs="*",
        help="some parts only: nodes, stack, understanding, analysis, applying, sampling, schedule, variation, memory; "
        "or picker, inspecting, bounds, cycles, rows, held, first, many, sweep, saving or merging (the last of saving), which are no parts "
        "of the rest",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="default: 1, whose CPU time other programs do not disturb"
    )
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="nothing but this version against those in other folders (git worktree add FOLDER COMMIT), in one process in turn",
    )
    parser.add_argument(
        "--peers",
        type=Path,
        help="for saving: a folder with resize_lora.py of sd-scripts and lora_nodes.py of ComfyUI-KJNodes, to measure beside us",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="with --only: put what is measured in its place in the results that are checked in",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    options = parser.parse_args()
    _import_comfyui()

    import torch

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    from benchmarks import (
        bounds,
        compare,
        cycles,
        first_use,
        held,
        inspecting,
        machine,
        many,
        parts,
        picker,
        results,
        rows,
        saving,
        sweep,
    )

    if options.against:
        from benchmarks import versions

        print(f"{machine.describe()}\n\n{versions.against(options.against, options.quick)}")
        return 0
    lines, start = [results.head(machine.describe(), options.quick)], time.perf_counter()
    found = {
        **parts.PARTS,
        "picker": picker.picker,
        "inspecting": inspecting.inspecting,
        "bounds": bounds.bounds,
        "cycles": cycles.cycles,
        "rows": rows.rows,
        "held": held.held,
        "first": first_use.first,
        "many": many.many,
        "sweep": sweep.sweep,
        "saving": partial(saving.saving, peers=options.peers),
        "merging": saving.merging,
    }
    unknown = set(options.only or ()) - found.keys()
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}: there are {', '.join(found)}")
    for name, part in found.items():
        if name in (options.only or parts.PARTS):
            began = time.perf_counter()
            lines.append(part(options.quick))
            print(f"{lines[-1]}\n[{name}: {time.perf_counter() - began:.0f} s]\n", flush=True)
    text = "\n\n".join(lines) + "\n"
    if options.quick and options.out.is_file():
        print(compare.compare(compare.read(options.out.read_text(encoding="utf-8")), compare.read(text)))
    elif not options.quick and (options.write or not options.only):
        kept = options.out.read_text(encoding="utf-8") if options.out.is_file() else lines[0]
        # Those of a part that did not run stay; a whole run tells of its own machine above them.
        options.out.write_text(results.merged(kept if options.only else _under(lines[0], kept), text), encoding="utf-8")
    print(f"{time.perf_counter() - start:.0f} s in all")
    return 0


def _under(head: str, kept: str) -> str:
    """The results that are checked in, under another head."""
    _, mark, sections = kept.partition("\n## ")
    return head + "\n" + mark + sections


def _import_comfyui() -> None:
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        sys.exit("Set COMFYUI_PATH, or run python3 dev.py bench.")
    # ``import nodes`` must find ComfyUI's, not ours: the pack is importable as ``strata``, the benchmarks as ``benchmarks``.
    sys.path[:] = [
        entry for entry in sys.path if Path(entry or os.getcwd()).resolve() not in (ROOT, ROOT / "benchmarks")
    ]
    sys.path.insert(0, comfyui)
    for name, path in (("strata", ROOT), ("benchmarks", ROOT / "benchmarks")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    sys.argv = sys.argv[:1]
    with contextlib.redirect_stdout(io.StringIO()):
        from comfy.cli_args import args

        args.cpu = True
        import logging

        import comfy.sample  # noqa: F401

        import nodes  # noqa: F401

    logging.getLogger().setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
