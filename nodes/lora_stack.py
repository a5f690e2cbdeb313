"""Many LoRAs in one node, stated as text: one line for each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ..lora_math.errors import StrataError
from ..lora_math.rows_text import Acting, FolderFiles, acting, picked, problems, read_rows
from ..lora_math.schedule import PRESETS, Schedule
from ..lora_math.tags import LoraTag, format_tag
from . import inputs
from .comfy import noise_steps
from .comfy.live_regions import chosen as region_of
from .comfy.live_regions import read_mask
from .comfy.live_time import read_variation
from .comfy.lora_names import index_of, lora_names
from .loader import APPLY, ON_PROBLEM, LoraStackType, apply_input, lora_model_input, on_problem_input
from .seen_files import fingerprint, remember, state
from .stack import StackEntry, of_tag, read_stack

if TYPE_CHECKING:
    from .apply_lora import Applied

EXAMPLE = "<lora:style:0.8>\n<lora:detail:0.5:0.3>\noff <lora:other:1> // a note"


@dataclass(frozen=True)
class Chosen:
    """What a stack's text comes to: the LoRAs in order, lines for the report about what the seed picked, and about what it could not pick
    from."""

    tags: tuple[LoraTag, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...] = ()


def choose(text: str, seed: int, on_problem: str = "error") -> Chosen:
    """The LoRAs that are on, with the seed's picks. A folder without files raises StrataError; with "warn" its row is left out."""
    tags, notes, wrong = [], [], []
    repeats: Counter[str] = Counter()
    files = FolderFiles(lora_names)
    for step in acting(read_rows(text)):
        what = "\n".join(map(format_tag, step.tags))
        repeats[what] += 1
        try:
            tag, note = _pick(step, seed, repeats[what], what, files)
        except StrataError as problem:
            if on_problem == "error":
                raise
            wrong.append(str(problem))
            continue
        tags.append(tag)
        notes += note
    return Chosen(tuple(tags), tuple(notes), tuple(wrong))


def _pick(step: Acting, seed: int, repeat: int, what: str, files: FolderFiles) -> tuple[LoraTag, list[str]]:
    at = picked(seed, what, repeat, len(step.tags)) if len(step.tags) > 1 else 0
    tag, where, among = step.tags[at], "", len(step.tags)
    if step.from_folder[at]:
        names = files.of(tag.name)
        if not names:
            raise StrataError(
                f"{format_tag(tag)} picks from the folder '{tag.name.rstrip('*')}', which has no LoRA files. "
                "Press R to refresh, or choose another folder."
            )
        where, among = f" in {tag.name}", len(names)
        tag = replace(tag, name=names[picked(seed, what, repeat, len(names))])
    elif len(step.tags) == 1:
        return tag, []
    return tag, [f"Picked by seed {seed}: {tag.name}, of {among}{where}"]


def _entries(
    tags: Sequence[LoraTag], on_problem: str, masks: Tensor | None = None
) -> tuple[dict[int, StackEntry], list[str]]:
    """(the LoRA of each tag by its place, what was wrong with the others). masks: that tags choose from, [count, height, width].

    Raises StrataError where ``on_problem`` is "error".
    """
    found, wrong = {}, []
    for at, tag in enumerate(tags):
        try:
            found[at] = entry = of_tag(tag)
            if tag.region is not None:
                found[at] = entry.masked(region_of(tag.region, masks))
        except StrataError as problem:
            if on_problem == "error":
                raise
            found.pop(at, None)
            wrong.append(f"{format_tag(tag)}: {problem}" if tag.region is not None else str(problem))
    return found, wrong


def used_text(entries: Sequence[StackEntry]) -> str:
    """``<lora:...>`` tags of a stack, as programs read them that look for LoRAs in a picture: file names alone, but for two of one name.
    A LoRA without a file has no tag; what else no tag says, ``unsaid`` does. entries: one for each file that acted."""
    entries = [entry for entry in _first_halves(entries) if entry.lora is None]
    stems = [_stem(entry[0]) for entry in entries]
    bare = [stem.rsplit("/", 1)[-1] for stem in stems]
    files: dict[str, set[str]] = {}
    for name, stem in zip(bare, stems, strict=True):
        files.setdefault(name, set()).add(stem)
    tags = []
    for entry, stem, name in zip(entries, stems, bare, strict=True):
        blocks = None if entry.block_weights is None else entry.block_weights.for_tag()
        time, factor, _ = _over_time(entry.keyframes)
        shown = name if len(files[name]) == 1 else stem
        tags.append(format_tag(LoraTag(shown, entry[1] * factor, entry[2], blocks, time=time)))
    return " ".join(tags)


def _first_halves(entries: Sequence[StackEntry]) -> list[StackEntry]:
    """What one model takes of these: of a row for a pair what it says of the high-noise model, where that is anything."""
    return [entry.renamed(*entry) for entry in entries if entry.low is None or any(entry[1:])]


def _files_of(entry: StackEntry) -> list[StackEntry]:
    """One for each file."""
    if entry.low is None:
        return [entry]
    name, strength = entry.low
    low = [entry.renamed(name, strength, 0.0)] if strength != 0 and name != entry[0] else []
    return [entry, *low] if entry[1] != 0 or not low else low


def unsaid(entries: Sequence[StackEntry]) -> list[str]:
    """Lines for the report: what the tags of ``used_text`` leave out, as no tag says it."""
    found = []
    for entry in entries:
        reasons = [] if entry.lora is None else ["it has no file, and so no tag"]
        reasons += _over_time(entry.keyframes)[2]
        reasons += [] if entry.mask is None else ["its mask"]
        if entry.low is not None and entry.low[0] == entry[0] and entry.low[1] != entry[1]:
            reasons.append(f"its strength {entry.low[1]:g} on model_low")
        if reasons:
            found.append(f"loras_text leaves out what no tag says of {_stem(entry[0])}: {'; '.join(reasons)}")
    return found


def _over_time(keyframes) -> tuple[str | None, float, list[str]]:
    """(a strength over time as a tag's text, what the model's strength is multiplied by besides, what neither says)."""
    if isinstance(keyframes, str) and " ".join(keyframes.split()).lower() in PRESETS:
        return " ".join(keyframes.split()).lower(), 1.0, []
    try:
        variation = read_variation(keyframes)
    except StrataError:
        # Whoever applies it says what is wrong.
        return None, 1.0, ["its keyframes"]
    time, factor, reasons = variation.time, variation.positive, []
    if variation.positive != variation.negative:
        reasons.append(f"x {variation.negative:g} on the negative prompt, where the positive one has x {factor:g}")
    if not isinstance(time, Schedule):
        return None, factor, [*reasons, *([] if time is None else ["its keyframes"])]
    return str(time), factor, reasons


def _stem(name: str) -> str:
    return os.path.splitext(name.replace("\\", "/"))[0]


def _text(rows) -> str:
    if rows is None:
        return ""
    if not isinstance(rows, str):
        raise StrataError(f"The rows input takes text, one <lora:name:strength> a line, not a {type(rows).__name__}.")
    return rows


class StrataLoraStack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataLoraStack",
            display_name="LoRA Stack (Strata)",
            category="loaders/strata",
            description="Applies many LoRAs, each with its own switch and strengths, and says what each did.",
            search_aliases=[
                "power lora loader",
                "lora stacker",
                "multiple loras",
                "lora list",
                "load lora",
                "random lora",
                "<lora:",
            ],
            inputs=[
                io.Model.Input("model", optional=True, tooltip="The diffusion model that the LoRAs change."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoders that the LoRAs change."),
                io.String.Input(
                    "rows",
                    default="",
                    multiline=True,
                    placeholder=EXAMPLE,
                    tooltip="A line for each LoRA: <lora:name:strength>, <lora:name:model:clip>, lbw= for block weights, at= for a "
                    "strength over time. Before it: off, lock, or pick for one file of <lora:folder/*>. Behind it: // and a note. # begins "
                    "a group. A prompt with tags can be pasted.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    optional=True,
                    tooltip="Decides what the rows that say 'pick' use. Without such rows it has no effect.",
                ),
                apply_input(),
                on_problem_input(),
                LoraStackType.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="More LoRAs, from a stack node of any pack. They are applied before these rows.",
                ),
                lora_model_input(
                    "A LoRA that is not in a file yet, of Train LoRA or Save LoRA (Strata). It is applied at strength 1, before these "
                    "rows; for another strength bring it through a LoRA Loader (Strata) and lora_stack."
                ),
                io.Model.Input(
                    "model_low",
                    optional=True,
                    tooltip="The low-noise model of a pair such as Wan 2.2; model is then the high-noise one. Each file acts on the model "
                    "that it is for; <lora:style_high:1;0.8> is both halves of a pair, with a strength for each.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="Where in the picture rows act that say mask=: <lora:anna:1:mask=1> where the first mask is white, mask=-1 "
                    "where it is black, mask=2 by the second of a batch of masks. mask=1+text: fully on text tokens.",
                ),
            ],
            outputs=[
                io.Model.Output("MODEL", tooltip="The diffusion model with the LoRAs."),
                io.Clip.Output("CLIP", tooltip="The text encoders with the LoRAs."),
                LoraStackType.Output(
                    "LORA_STACK", tooltip="The incoming stack with these LoRAs behind it, for other nodes."
                ),
                io.String.Output(
                    "trigger_words", tooltip="Words that the LoRAs were trained on, for the prompt; empty when unknown."
                ),
                io.String.Output("report", tooltip="What was applied, what was left over, and why."),
                io.String.Output(
                    "loras_text",
                    tooltip="<lora:...> tags of what was used, for a picture's metadata or another program.",
                ),
                io.Model.Output(
                    "MODEL_LOW",
                    tooltip="The low-noise model of a pair with the LoRAs that are for it.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            # A page that was loaded anew hears of the last run again.
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, rows: str | None = None, seed: int = 0, on_problem: str | None = "error") -> bool | str:
        """A file that is missing is said before anything runs."""
        if not isinstance(rows, str) or on_problem == "warn":
            return True
        try:
            index = index_of(lora_names())
            for tag in choose(rows, seed if isinstance(seed, int) else 0).tags:
                index.name_of(tag.name)
        except StrataError as problem:
            return str(problem)
        return True

    @classmethod
    def fingerprint_inputs(cls, rows: str | None = None, seed: int = 0, **_) -> str:
        """Changes when a file is replaced on disk, when a folder's pick is another one, or when a preset that is named is; also of files
        that came over a link."""
        from .pairs import expert

        try:
            tags = choose(_text(rows), inputs.whole(seed, "seed"), "warn").tags
            own, _ = _entries([replace(tag, region=None) for tag in tags], "warn")
        except StrataError:
            # The node itself says what is wrong.
            own = {}
        files = [file for entry in own.values() for file in _files_of(entry)]
        found = [(file[0], state(file[0], file.block_weights), expert(file[0])) for file in files]
        return "\n".join(filter(None, (repr(found) if found else "", fingerprint(cls))))

    @classmethod
    def execute(
        cls,
        rows: str | None = "",
        seed: int | None = 0,
        model=None,
        clip=None,
        apply: str = "patch",
        on_problem: str = "error",
        lora_stack=None,
        lora_model=None,
        model_low=None,
        masks=None,
    ) -> io.NodeOutput:
        # What applies LoRAs is loaded when somebody applies one, and not with every start of ComfyUI.
        from .apply import apply_stack
        from .comfy.targets import model_targets
        from .pairs import apply_to_pair
        from .trained import trained_lora

        text, seed = _text(rows), inputs.whole(seed, "seed")
        apply, on_problem = inputs.choice(apply, "apply", APPLY), inputs.choice(on_problem, "on_problem", ON_PROBLEM)
        model, clip = inputs.patchable(model, "model"), inputs.patchable(clip, "clip")
        model_low = inputs.patchable(model_low, "model_low")
        wrong = [f"Line {number} of the rows is not understood: {why}" for number, why in problems(read_rows(text))]
        if wrong and on_problem == "error":
            raise StrataError("\n".join(wrong))
        chosen = choose(text, seed, on_problem)
        wrong += chosen.problems
        before = read_stack(lora_stack)
        if lora_model is not None:
            trained = trained_lora(lora_model)
            before.append(StackEntry(trained.name, 1.0, 1.0, lora=trained))
        own, missed = _entries(chosen.tags, on_problem, read_mask(masks, "masks"))
        wrong += missed
        stack, names = (
            [*before, *own.values()],
            [*(entry[0] for entry in before), *(chosen.tags[at].name for at in own)],
        )
        nothing = (model, clip, model_low) == (None, None, None)
        node = getattr(cls.hidden, "unique_id", None)
        if model_low is None:
            applied = apply_stack(model, clip, [] if nothing else stack, on_problem, apply, node)
            parts = applied.parts or (applied,) * len(stack)
            used = _first_halves([entry for entry, part in zip(stack, parts, strict=True) if part.used])
        else:
            pair = apply_to_pair(model, model_low, clip, stack, on_problem, apply, node)
            applied, model_low, used = pair.applied, pair.model_low, pair.used
        remember(cls, [half for entry in stack for half in _files_of(entry)])
        told = _told(applied, wrong, [*chosen.notes, *unsaid(used)], stack, nothing)
        ui = {**told.ui(), "strata_rows": _by_name(applied, names), "strata_used": [used_text(used)]}
        known = model if model is not None else model_low
        ui["strata_noise"] = [noise_steps.remember(told.model)]
        ui["strata_family"] = [None if known is None else model_targets(known).family]
        outputs = told.model, told.clip, stack, told.trigger_words, told.report, used_text(used), model_low
        return io.NodeOutput(*outputs, ui=ui)


def _told(
    applied: Applied, wrong: Sequence[str], notes: Sequence[str], stack: Sequence[StackEntry], unconnected: bool
) -> Applied:
    """With what the rows themselves have to say in front of the report. wrong: lines about what was left out."""
    verdict, report = applied.verdict, applied.report
    if unconnected and stack:
        verdict = report = f"{len(stack)} LoRAs handed on as LORA_STACK; no MODEL or CLIP is connected"
    return replace(
        applied,
        verdict=wrong[0] if wrong else verdict,
        report="\n".join([*wrong, *notes, report]),
        warned=applied.warned or bool(wrong),
    )


def _by_name(applied: Applied, names: Sequence[str]) -> list[dict]:
    """What each LoRA came to, for its row in the browser, which knows it by these names."""
    return [
        {"name": name, "verdict": part.verdict, "warned": part.warned}
        for name, part in zip(names, applied.parts, strict=False)
    ]
