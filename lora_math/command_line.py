"""inspect, merge, resize, convert, extract and look through a library from a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from .adapters.stored import STYLES
from .algebra.budget import Budget
from .algebra.extract import extract
from .baking import Baked, Recipe, bake, check_file, check_strength, layers_by_name, once
from .choices import METHODS, TYPES
from .errors import StrataError
from .family import detect
from .inspecting.layers import measure
from .inspecting.library import look_through, read_index, write_index
from .inspecting.one import numbers
from .reading import state_dict
from .reading.checkpoints import open_checkpoint, pairs, place_of
from .reading.contents import check_numbers
from .reading.files import LoraFile, data_sha256, read_lora_file
from .reading.problems import show_size
from .reading.trigger_words import trigger_words
from .writing.file import save
from .writing.header import Parent, header
from .writing.lora import overhead, tensors


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with a sentence on standard error."""
    # Names of files and words of headers are strangers' bytes.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except StrataError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lora_math", description="LoRA files: look at, merge, shrink, convert, extract."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("inspect", help="what is in a LoRA file")
    one.add_argument("file")
    one.set_defaults(run=_inspect)
    one = commands.add_parser("library", help="what is in a folder of LoRAs, and which files are the same")
    one.add_argument("folder")
    one.add_argument(
        "--index", metavar="FILE", help="keeps what is known, so that only new files are read the next time"
    )
    one.set_defaults(run=_library)
    one = commands.add_parser("merge", help="several LoRAs into one: a.safetensors:0.7 b.safetensors:-0.3")
    one.add_argument("files", nargs="+", metavar="FILE[:STRENGTH]")
    one.add_argument("--method", choices=METHODS, default="sum")
    one.add_argument("--density", type=float, default=0.5, help="share that ties, dare, della and magnitude keep")
    one.add_argument("--seed", type=int, default=0)
    _output(one)
    one.set_defaults(run=_merge)
    one = commands.add_parser("resize", help="a smaller LoRA, as near to the first as it can be")
    one.add_argument("files", nargs=1, metavar="FILE")
    _output(one)
    one.set_defaults(run=_merge, method="sum", density=0.5, seed=0)
    one = commands.add_parser("convert", help="LoKr, LoHa and the like as LoRA, in another style or type")
    one.add_argument("files", nargs=1, metavar="FILE")
    _output(one)
    one.set_defaults(run=_merge, method="sum", density=0.5, seed=0)
    one = commands.add_parser("extract", help="the difference of two model files as a LoRA")
    one.add_argument("base", help="a checkpoint, a diffusion model or a text encoder, as .safetensors")
    one.add_argument("tuned", help="what the LoRA shall make of it")
    one.add_argument("--largest-rank", type=int, default=64, help="of any layer, before --rank and the like choose")
    _output(one)
    one.set_defaults(run=_extract)
    return parser


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="the file to write; never over one that is there")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--rank", type=int, help="at most this rank in each layer")
    size.add_argument("--energy", type=float, help="keep this share (0 to 1) of the whole LoRA's energy")
    size.add_argument("--error", type=float, help="at most this relative error (0 to 1)")
    size.add_argument("--size", type=float, metavar="MB", help="the best LoRA that fits into so many megabytes")
    parser.add_argument("--clip", type=float, default=0.0, help="cut singular values above this")
    parser.add_argument("--type", choices=TYPES, default="fp16")
    parser.add_argument("--style", choices=STYLES, default="kohya", help="kohya: lora_up, alpha; peft: lora_B")
    parser.add_argument("--stubs", action="store_true", help="zeros for layers of which nothing is left")


# Bytes for metadata; more where the tags of the parents take more.
HEADER_ROOM = 4096


def _recipe(chosen: argparse.Namespace, said: int = 0) -> Recipe:
    budget = Budget()
    for kind in ("rank", "energy", "error"):
        if getattr(chosen, kind) is not None:
            budget = Budget(kind, getattr(chosen, kind))
    if chosen.size is not None:
        budget = Budget("size", chosen.size * 1e6 - HEADER_ROOM - said)
    own = {name: getattr(chosen, name) for name in ("method", "density", "seed") if hasattr(chosen, name)}
    return Recipe(
        budget=budget, clip=chosen.clip, dtype=TYPES[chosen.type], style=chosen.style, stubs=chosen.stubs, **own
    )


def _inspect(chosen: argparse.Namespace) -> None:
    file, contents = _read(chosen.file)
    kinds: dict[str, list[int]] = {}
    for entry in contents.entries:
        kinds.setdefault(entry.adapter.name, []).append(entry.adapter.rank or 0)
    print(
        f"{os.path.basename(file.path)}: {show_size(file.size)}, {detect(contents.entries, file.metadata) or 'family not known'}"
    )
    for kind, ranks in kinds.items():
        told = f", rank {min(ranks)}" + (f" to {max(ranks)}" if max(ranks) > min(ranks) else "") if max(ranks) else ""
        print(f"  {kind}: {len(ranks)} weights{told}")
    for key, reason in list(contents.leftovers.items())[:10]:
        print(f"  not understood: {key}: {reason}")

    found = numbers(
        measure(
            contents.entries,
            check_numbers(file.tensors).broken,
        ),
        [""] * len(contents.entries),
    )
    whole = found.whole
    if whole.rank is not None:
        print(f"  rank {whole.rank} in each layer keeps 99 % of the energy; effective rank {whole.effective:.3g}")
    print(f"  size of the change: {whole.norm:.4g}")
    for count, what in ((found.dead, "all zero"), (found.broken, "damaged"), (len(found.spikes), "with a spike")):
        if count:
            print(f"  {count} layers {what}")


def _library(chosen: argparse.Namespace) -> None:
    known = read_index(chosen.index) if chosen.index else {}
    here = sys.stderr.isatty()
    told = (lambda path: print(f"reading {path}", file=sys.stderr)) if here else (lambda _: None)
    found = look_through(chosen.folder, known, told)
    if chosen.index:
        write_index(chosen.index, found.files)
    sound = {path: file for path, file in found.files.items() if not file.problem}
    print(f"{len(found.files)} files, {show_size(sum(file.size for file in found.files.values()))}")
    for family, count in Counter(file.family or "family not known" for file in sound.values()).most_common():
        print(f"  {family}: {count}")
    for group in found.same_data:
        print(f"Same data: {', '.join(group)}")
    for pair in found.same_content:
        differs = abs(pair.scale - 1) >= 0.005
        scale = f", the second {pair.scale:.3g} x as strong" if differs else ""
        print(f"Same content: {pair.first}, {pair.second} (cosine {pair.cosine:.4f}{scale})")
    for path, file in found.files.items():
        if file.problem:
            print(f"Not usable: {path}: {file.problem}")


def _merge(chosen: argparse.Namespace) -> None:
    opened, weights = [], []
    for text in chosen.files:
        path, weight = (text, 1.0) if len(chosen.files) == 1 and os.path.exists(text) else _weighted(text)
        file, contents = _read(path)
        name = os.path.basename(path)
        check_file(name, contents, check_numbers(file.tensors).broken)
        for told in _not_used(name, contents):
            print(told, file=sys.stderr)
        opened.append((file, contents))
        weights.append(check_strength(name, weight))
    entries = [contents.entries for _, contents in opened]
    said = sum(len(value.encode()) for file, _ in opened for value in file.metadata.values())
    baked = bake(layers_by_name(entries), weights, _recipe(chosen, said))
    families = {detect(of, file.metadata) for (file, _), of in zip(opened, entries, strict=True)}
    parents = [
        Parent(
            os.path.splitext(os.path.basename(file.path))[0],
            file.metadata,
            data_sha256(file.path),
            trigger_words(file.path, file.metadata),
        )
        for file, _ in opened
    ]
    told = {
        "method": chosen.method,
        "sources": [
            {"name": parent.name, "hash": parent.sha256, "strength": weight}
            for parent, weight in zip(parents, weights, strict=True)
        ],
    }
    _save(chosen, baked, parents, families.pop() if len(families) == 1 else None, told)


def _save(chosen: argparse.Namespace, baked: Baked, parents: list[Parent], family: str | None, recipe: dict) -> None:
    name = os.path.splitext(os.path.basename(chosen.out))[0]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = baked.quality
    recipe = {**recipe, "error": round(found.error, 6), "gain": round(found.gain, 6)}
    saved = save(chosen.out, baked.tensors, header(name, parents, family, baked.ranks, recipe, now))
    ranks = sorted(baked.ranks)
    span = f"rank {ranks[0]} to {ranks[-1]}" if ranks else "nothing low-rank"
    print(f"{saved.path}: {show_size(saved.size)}, {span}, error {100 * found.error:.3g} %, gain {found.gain:.4f}")


def _extract(chosen: argparse.Namespace) -> None:
    recipe = _recipe(chosen)
    with open_checkpoint(chosen.base) as base, open_checkpoint(chosen.tuned) as tuned:
        stored = extract(
            pairs(base, tuned),
            chosen.largest_rank,
            recipe.budget,
            recipe.dtype,
            recipe.clip,
            lambda name: overhead(place_of(name)[0]),
            tuned=os.path.basename(chosen.tuned),
        )
    layers = {place_of(name): layer for name, layer in stored.items()}
    baked = Baked(tensors(layers, recipe.style, recipe.stubs), layers)
    told = {"method": "extract", "base": os.path.basename(chosen.base), "tuned": os.path.basename(chosen.tuned)}
    _save(chosen, baked, [], detect(state_dict.parse(baked.tensors).entries, {}), told)


def _read(path: str) -> tuple[LoraFile, state_dict.StateDict]:
    file = read_lora_file(path)
    contents = state_dict.parse(file.tensors, file.metadata)
    if not contents.entries:
        raise StrataError(f"{os.path.basename(path)} holds no LoRA that is understood here.")
    return file, contents


def _not_used(name: str, contents: state_dict.StateDict) -> Iterator[str]:
    """What of a file is not in what is made of it."""
    if contents.leftovers:
        key, reason = next(iter(contents.leftovers.items()))
        yield f"{name}: {len(contents.leftovers)} tensors are not understood and left out, such as {key} ({reason})"
    if repeated := once(contents.entries)[1]:
        yield f"{name}: {len(repeated)} layers stand in it in several spellings, such as {repeated[0].module}; each counts once"


def _weighted(text: str) -> tuple[str, float]:
    path, colon, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0
