"""LoRAs of a stack onto a MODEL and a CLIP: files by their names, one read ahead, on one clone of each, with a report that tells of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

from ..lora_math.errors import StrataError
from .apply_lora import Applied, Apply, Changing, OnProblem, apply_lora
from .comfy.library import Lora
from .comfy.lora_names import is_another, locate
from .comfy.targets import clip_targets, model_targets
from .report import lora as report
from .stack import StackEntry


def apply_stack(
    model, clip, entries: Sequence[StackEntry], on_problem: OnProblem, apply: Apply = "patch", node: str | None = None
) -> Applied:
    """Every LoRA of a stack in order, on one clone of each. Raises StrataError when a file or its fit is bad and ``on_problem`` is
    "error"; with "warn" the report says what is wrong and nothing of that LoRA is patched.

    node: the id of the node that does it, which live LoRAs have something to say on while the model samples.
    """
    models, clips = Changing(model), Changing(clip)
    results = []
    with _opened_ahead(entries) as openers:
        # Meanwhile the first file is read.
        for given, targets in ((model, model_targets), (clip, clip_targets)):
            if given is not None and entries:
                targets(given)
        for entry, opened in zip(entries, openers, strict=True):
            with _naming(entry) if len(entries) > 1 else nullcontext():
                results.append(_apply_named(models, clips, entry, opened, on_problem, apply, node))
    return _together(models.finish(), clips.finish(), results, "applied")


def _together(model, clip, results: Sequence[Applied], what: str) -> Applied:
    if not results:
        return Applied(model, clip, "No LoRA: nothing changed", "No LoRA: nothing changed", False)
    words = dict.fromkeys(word for applied in results for word in applied.trigger_words.split(", ") if word)
    warned = [applied for applied in results if applied.warned]
    verdict = (warned or results)[0].verdict if len(results) == 1 or warned else f"{len(results)} LoRAs {what}"
    told = "\n\n".join(a.report for a in results)
    return Applied(model, clip, told, verdict, bool(warned), ", ".join(words), tuple(results))


@contextmanager
def _opened_ahead(entries: Sequence[StackEntry]) -> Iterator[Iterator[Callable[[], Lora]]]:
    """What gives each entry's opened file: a file that is not open yet is read in a thread, one ahead of what is being applied."""
    if all(entry.is_open for entry in entries):
        yield (entry.opened for entry in entries)
        return
    with ThreadPoolExecutor(1, "strata-lora-file") as pool:

        def each() -> Iterator[Callable[[], Lora]]:
            following = first
            for after in (*entries[1:], None):
                opened, following = following, None if after is None else pool.submit(after.opened)
                yield opened.result

        first = pool.submit(entries[0].opened)
        try:
            yield each()
        finally:
            pool.shutdown(cancel_futures=True)


def _apply_named(
    models: Changing,
    clips: Changing,
    entry: StackEntry,
    opened: Callable[[], Lora],
    on_problem: OnProblem,
    apply: Apply,
    node: str | None,
) -> Applied:
    """One LoRA by its name; with "warn" a file that cannot be used is said and left out."""
    try:
        lora = opened()
    except StrataError as problem:
        if on_problem == "error":
            raise
        return Applied(None, None, str(problem), str(problem), True, used=False)
    applied = apply_lora(models, clips, lora, entry, on_problem, apply, node)
    applied = replace(applied, report="\n".join([applied.report, *report.unused_half(entry.low)]))
    return _with_asked(applied, entry[0], lora)


@contextmanager
def _naming(entry: StackEntry) -> Iterator[None]:
    """What is wrong says which LoRA it is about: of several in a prompt or a stack it may be any."""
    try:
        yield
    except StrataError as problem:
        name = entry[0] if entry.lora is None else entry.lora.name
        with suppress(StrataError):
            name = locate(name).name if entry.lora is None else name
        # The name of a tag may be any short word, which says nothing where it stands without quotes.
        if name in str(problem) if "." in name else f"'{name}'" in str(problem):
            raise
        blocks = "" if entry.block_weights is None else f" with the block weights {_short(entry.block_weights.text)}"
        problem.args = (f"{problem}\nThis is about the LoRA {_short(name)}{blocks}.",)
        raise


def _short(text: str) -> str:
    line = " ".join(text[:200].split())
    return f"'{line if len(line) <= 60 else f'{line[:57]}...'}'"


def _with_asked(applied: Applied, asked: str, lora: Lora) -> Applied:
    """The report says which file acted where that is not plainly the one that was asked for."""
    if not is_another(asked, lora.name):
        return applied
    line, *rest = applied.report.split("\n", 1)
    note = f"Asked for '{asked[:200]}': used {lora.name}, the only file of that name"
    return replace(applied, report="\n".join([line, note, *rest]))


def describe_stack(entries: Sequence[StackEntry], on_problem: OnProblem) -> Applied:
    """What the LoRAs of a stack are, where there is neither MODEL nor CLIP to apply them to: the stack goes on to another node.

    Raises StrataError for a file that cannot be used and ``on_problem`` "error".
    """
    results = []
    for entry in entries:
        try:
            lora = entry.opened()
        except StrataError as problem:
            if on_problem == "error":
                raise
            results.append(Applied(None, None, str(problem), str(problem), True, used=False))
            continue
        line = f"{lora.name}: handed on as LORA_STACK, nothing is connected here"
        told = Applied(None, None, f"{line}\nFile: {report.describe(lora)}", line, False, ", ".join(lora.trigger_words))
        results.append(_with_asked(told, entry[0], lora))
    return _together(None, None, results, "handed on as LORA_STACK, nothing is connected here")
