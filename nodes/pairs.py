"""A stack onto a pair of models, such as the two experts of Wan 2.2: which file acts on which, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..lora_math.errors import StrataError
from ..lora_math.experts import Expert, Half, expert_in_name
from .apply import apply_stack
from .apply_lora import Applied, OnProblem
from .comfy.lora_names import locate
from .comfy.model_file import model_file
from .library.halves import half
from .stack import StackEntry

EXPERTS: tuple[Expert, Expert] = ("high", "low")


@dataclass(frozen=True)
class Sides:
    """What one row of a stack does on each model: None where it does nothing there. notes: for the report; wrong: lines that warn."""

    high: StackEntry | None
    low: StackEntry | None
    notes: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


def sides(entry: StackEntry) -> Sides:
    """A row without strengths for both acts on the expert that its file is for, on both where nothing tells. Files that are not found are
    the loader's to say."""
    name, model, clip = entry
    low = entry.low
    if entry.lora is not None:
        return Sides(entry, entry.renamed(name, model, 0.0))
    if low is None:
        known = _half(name)
        doubt = (f"{name} acts on MODEL ({known.expert}): {known.doubt}",) if known.doubt else ()
        if known.expert == "high":
            return Sides(entry, None, _taken(name, known), doubt)
        if known.expert == "low":
            return Sides(None, entry, _taken(name, known), doubt)
        return Sides(entry, entry.renamed(name, model, 0.0), _unclear(name))
    first = entry.renamed(name, model, clip) if model != 0 or clip != 0 else None
    second = entry.renamed(low[0], low[1], 0.0) if low[1] != 0 else None
    wrong = [*_out_of_place(first, "high"), *_out_of_place(second, "low")]
    return Sides(first, second, _taken(name, _half(name)), tuple(wrong))


def _low_alone(row: Sides) -> Sides:
    """Where only the low-noise model is connected: what acts there changes the text encoders too."""
    if row.high is None or row.low is None:
        return row
    name, strength, _ = row.low
    return replace(row, low=row.low.renamed(name, strength, row.high[2]))


def expert(name: str) -> Expert | None:
    """Which model a file acts on by itself, None for both."""
    return _half(name).expert


def _half(name: str) -> Half:
    try:
        return half(name)
    except StrataError:
        # A file that is missing, or of which nobody can say which is its other half: on both.
        return Half()


def _unclear(name: str) -> tuple[str, ...]:
    said = expert_in_name(name)
    if said is None:
        return ()
    other = EXPERTS[said == "high"]
    only = "1;0" if said == "high" else "0;1"
    return (
        f"{name} acts on both models: no file of the same name with {other} in place of {said} is its other half. Write {only} where "
        "its name means one of them",
    )


def _taken(name: str, known: Half) -> tuple[str, ...]:
    """That two files count as a pair where a word alone says so: low-angle and high-angle are named as the halves of one."""
    if not known.bare:
        return ()
    listed = locate(name).name
    high, low = (listed, known.other) if known.expert == "high" else (known.other, listed)
    return (
        f"{high} and {low} are taken for the two halves of a pair, by the words high and low alone. Rename one where they are none",
    )


def _out_of_place(entry: StackEntry | None, on: Expert) -> list[str]:
    expert = None if entry is None or entry[1] == 0 else _half(entry[0]).expert
    if expert is None or expert == on:
        return []
    return [f"{entry[0]} is for {expert} noise and acts on MODEL ({on})"]


def swapped(model, on: Expert) -> list[str]:
    """A line where the name of a MODEL's file says the other expert."""
    file = model_file(model)
    said = expert_in_name(file)
    if said is None or said == on:
        return []
    return [f"MODEL ({on}) was loaded from {file}, whose name says {said}: are the two models swapped?"]


@dataclass(frozen=True, eq=False)
class OnPair:
    """What applying to a pair came to. applied: of both together, its ``model`` the high-noise one; sides: of each row of the stack; used:
    the files that acted."""

    applied: Applied
    model_low: object | None
    used: list[StackEntry]


def apply_to_pair(
    model,
    model_low,
    clip,
    entries: Sequence[StackEntry],
    on_problem: OnProblem,
    apply: str,
    node: str | None,
) -> OnPair:
    """The text encoders change once, by the high-noise half, or by the other one where there is no model for that. Raises StrataError as
    ``apply_stack`` does."""
    rows = [sides(entry) for entry in entries]
    if model is None:
        rows = [_low_alone(row) for row in rows]
    wrong = [*swapped(model, "high"), *swapped(model_low, "low")]
    parts: list[list[tuple[Expert, Applied]]] = [[] for _ in rows]
    told: list[str] = []
    counts: list[str] = []
    used: list[list[StackEntry]] = [[] for _ in rows]
    models = {"high": model, "low": model_low}
    for expert in EXPERTS:
        here = [at for at, row in enumerate(rows) if getattr(row, expert) is not None]
        own = [getattr(rows[at], expert) for at in here]
        if models[expert] is None:
            if own:
                told.append(f"MODEL ({expert}): not connected, {_loras(len(own))} for it not used")
            continue
        found = apply_stack(models[expert], clip, own, on_problem, apply, node)
        models[expert], clip = found.model, found.clip
        for at, entry, part in zip(here, own, found.parts, strict=True):
            parts[at].append((expert, part))
            used[at] += [entry] if part.used else []
        counts.append(f"{len(own)} on MODEL ({expert})")
        told.append(f"MODEL ({expert}): {found.report}")
    together = [_row(row, of_row) for row, of_row in zip(rows, parts, strict=True)]
    warned = [part for part in together if part.warned]
    verdict = wrong[0] if wrong else warned[0].verdict if warned else f"LoRAs applied: {', '.join(counts)}"
    notes = list(dict.fromkeys(line for row in rows for line in (*row.wrong, *row.notes)))
    words = dict.fromkeys(word for part in together for word in part.trigger_words.split(", ") if word)
    report = "\n\n".join(["\n".join([*wrong, *notes]), *told] if wrong or notes else told)
    applied = Applied(models["high"], clip, report, verdict, bool(wrong or warned), ", ".join(words), tuple(together))
    return OnPair(applied, models["low"], [entry for found in used for entry in _once(found)])


def _once(acted: Sequence[StackEntry]) -> list[StackEntry]:
    """One for each file."""
    if len(acted) == 2 and acted[0][0] == acted[1][0]:
        return [acted[0].renamed(*acted[0], (acted[1][0], acted[1][1]))]
    return list(acted)


def _row(row: Sides, on: Sequence[tuple[Expert, Applied]]) -> Applied:
    """What one row came to on both models; what is the same on both is said once."""
    parts = [part for _, part in on]
    said: dict[str, list[str]] = {}
    for expert, part in sorted(on, key=lambda one: not one[1].warned):
        said.setdefault(part.verdict, []).append(expert)
    lines = [*row.wrong, *(f"{' and '.join(experts)}: {verdict}" for verdict, experts in said.items())]
    words = dict.fromkeys(word for part in parts for word in part.trigger_words.split(", ") if word)
    # Whole sentences end with a dot of their own.
    joined = "; ".join([*(line.removesuffix(".") for line in lines[:-1]), *lines[-1:]])
    verdict = joined or "nothing acts: both strengths are 0, or its model is not connected"
    warned = bool(row.wrong) or any(part.warned for part in parts)
    return Applied(None, None, verdict, verdict, warned, ", ".join(words), used=any(part.used for part in parts))


def _loras(count: int) -> str:
    return "1 LoRA" if count == 1 else f"{count} LoRAs"
