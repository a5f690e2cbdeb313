"""The LoRA loader."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..lora_math.errors import StrataError
from . import inputs
from .block_weights import BlockWeightsType
from .comfy import noise_steps
from .comfy.live_regions import Where, read_mask
from .comfy.lora_names import lora_names, resolve
from .fitting.block_spec import BlockSpec
from .schedule import LoraScheduleType
from .seen_files import fingerprint, remember
from .stack import StackEntry, read_stack, with_listed_names

if TYPE_CHECKING:
    from .apply_lora import Applied

LoraStackType = io.Custom("LORA_STACK")
# What a new loader holds: no file.
NO_LORA = "Choose a LoRA"
# Their places among the loader's outputs.
MODEL_OUTPUT, CLIP_OUTPUT = 0, 1
APPLY, ON_PROBLEM = ("auto", "patch", "live"), ("error", "warn")
TEXT_TOKENS = ("masked", "unmasked")
CHOOSE = "Choose a file in the node's list."


def strength_input(name: str, tooltip: str) -> io.Float.Input:
    """A strength slider. The browser shows -2 to 2 of it ("Strata: slider range"); any value from -100 to 100 is valid."""
    return io.Float.Input(
        name, default=1.0, min=-100.0, max=100.0, step=0.01, display_mode=io.NumberDisplay.slider, tooltip=tooltip
    )


def apply_input() -> io.Combo.Input:
    return io.Combo.Input(
        "apply",
        options=list(APPLY),
        default="auto",
        # Prompts written by hand need not name it.
        optional=True,
        tooltip="auto: live for weights that are stored in 8 bits or fewer and for a strength that varies, patch for all else. patch: "
        "adds the LoRA to the model's weights, once for each change of a strength. live: leaves the weights alone and runs the LoRA "
        "beside them, a little slower per step: moving strength_model then costs nothing, and 16 and 8 bit models keep all of the "
        "LoRA's precision.",
    )


def keyframes_input(tooltip: str) -> io.MultiType.Input:
    kinds = [io.HookKeyframes, LoraScheduleType, io.Curve, io.Custom("FLOATS"), io.Float, io.String]
    return io.MultiType.Input("keyframes", types=kinds, optional=True, tooltip=tooltip)


def on_problem_input() -> io.Combo.Input:
    return io.Combo.Input(
        "on_problem",
        options=list(ON_PROBLEM),
        default="error",
        optional=True,
        advanced=True,
        tooltip="When a LoRA does not fit this model or is damaged: stop with an error, or go on without it and say so.",
    )


def lora_model_input(tooltip: str) -> io.LoraModel.Input:
    return io.LoraModel.Input("lora_model", optional=True, tooltip=tooltip)


class StrataLoraLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataLoraLoader",
            display_name="LoRA Loader (Strata)",
            category="loaders/strata",
            description="Applies a LoRA to the diffusion model and the text encoders, and says what it did.",
            search_aliases=[
                "lora",
                "load lora",
                "lora loader",
                "strength_model",
                "strength_clip",
                "locon",
                "lycoris",
                "dora",
            ],
            inputs=[
                io.Model.Input("model", optional=True, tooltip="The diffusion model that the LoRA changes."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoders that the LoRA changes."),
                io.Combo.Input(
                    "lora_name",
                    options=[NO_LORA, *lora_names()],
                    default=NO_LORA,
                    tooltip="The LoRA file, from your loras folders. Before one is chosen, model and clip pass through.",
                ),
                strength_input(
                    "strength_model",
                    "How strongly the diffusion model changes. 1 is what was trained, 0 is nothing, negative is the opposite.",
                ),
                strength_input(
                    "strength_clip",
                    "How strongly the text encoders change. Has no effect for LoRAs that were trained without them.",
                ),
                apply_input(),
                on_problem_input(),
                BlockWeightsType.Input(
                    "block_weights",
                    optional=True,
                    tooltip="Strengths block by block: each multiplies strength_model, or strength_clip in a text encoder.",
                ),
                keyframes_input(
                    "strength_model over time and over the prompts, from 'LoRA Strength over Time (Strata)', 'Create Hook Keyframe', a "
                    "CURVE or a list of numbers, one for each step: it multiplies strength_model. The LoRA then runs live, whatever "
                    "apply says; the text encoders' strength stays as it is."
                ),
                LoraStackType.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="More LoRAs, from a stack node of any pack. They are applied before this one.",
                ),
                lora_model_input(
                    "A LoRA that is not in a file yet, of Train LoRA or Save LoRA (Strata). It takes the place of lora_name: strengths, "
                    "block weights and keyframes are for it."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the LoRA acts: where the mask is white. Soft edges are soft transitions; any size. The "
                    "LoRA then runs live, whatever apply says; the text encoders change as without it.",
                ),
                # Behind all others, so that workflows which were saved without it keep their values by position.
                io.Combo.Input(
                    "text_tokens",
                    options=list(TEXT_TOKENS),
                    default="masked",
                    optional=True,
                    advanced=True,
                    tooltip="What the LoRA does to text tokens, which have no place in the picture. masked: it acts on them by the share "
                    "of the picture that the mask covers. unmasked: fully, for a LoRA whose trigger word matters. Without a mask there "
                    "is nothing to choose.",
                ),
            ],
            outputs=[
                io.Model.Output("MODEL", tooltip="The diffusion model with the LoRA."),
                io.Clip.Output("CLIP", tooltip="The text encoders with the LoRA."),
                io.String.Output(
                    "trigger_words", tooltip="Words that the LoRA was trained on, for the prompt; empty when unknown."
                ),
                io.String.Output("report", tooltip="What was applied, what was left over, and why."),
                LoraStackType.Output(
                    "LORA_STACK", tooltip="The incoming stack with this LoRA behind it, for other nodes."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            # A page that was loaded anew hears of the last run again.
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        # Naming lora_name here turns off ComfyUI's exact comparison with the list, so that names from other systems resolve.
        # None is a link or null, which cannot be told apart here.
        if lora_name in (None, NO_LORA):
            return True
        try:
            resolve(inputs.filled(lora_name, "lora_name", CHOOSE))
        except StrataError as problem:
            return str(problem)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, **_) -> str:
        """Changes when the file is replaced on disk under the same name, or one that came over a link is."""
        return fingerprint(cls, lora_name)

    @classmethod
    def execute(
        cls,
        lora_name: str | None = None,
        strength_model: float | None = 1.0,
        strength_clip: float | None = 1.0,
        model=None,
        clip=None,
        apply: str = "patch",
        on_problem: str = "error",
        block_weights: BlockSpec | str | None = None,
        keyframes=None,
        lora_stack=None,
        lora_model=None,
        mask=None,
        text_tokens: str = "masked",
    ) -> io.NodeOutput:
        # What applies LoRAs is loaded when somebody applies one, and not with every start of ComfyUI.
        from .apply import apply_stack, describe_stack
        from .trained import trained_lora

        trained = None if lora_model is None else trained_lora(lora_model)
        unused = lora_name if trained is not None and lora_name not in (None, NO_LORA) else None
        name = inputs.filled(lora_name, "lora_name", CHOOSE) if trained is None else trained.name
        strengths = inputs.number(strength_model, "strength_model"), inputs.number(strength_clip, "strength_clip")
        apply, on_problem = inputs.choice(apply, "apply", APPLY), inputs.choice(on_problem, "on_problem", ON_PROBLEM)
        model, clip = inputs.patchable(model, "model"), inputs.patchable(clip, "clip")
        on_text = inputs.choice(text_tokens, "text_tokens", TEXT_TOKENS) == "unmasked"
        where = read_mask(mask)
        if where is not None and on_text:
            where = Where(where, on_text)
        own = StackEntry(name, *strengths, BlockSpec.of(block_weights), keyframes, trained, where)
        stack = [*read_stack(lora_stack), *([] if name == NO_LORA else [own])]
        if model is None and clip is None:
            if cls._is_to_change_something():
                raise StrataError("Nothing is connected: connect MODEL, CLIP or both to the LoRA Loader.")
            applied = describe_stack(stack, on_problem)
        else:
            applied = apply_stack(model, clip, stack, on_problem, apply, getattr(cls.hidden, "unique_id", None))
        if name == NO_LORA:
            applied = _nothing_chosen(applied)
        if unused is not None:
            note = f"lora_name ({str(unused)[:200]}) is not used: a LORA_MODEL is connected, and takes its place"
            applied = replace(applied, report=f"{applied.report}\n{note}")
        if on_text and where is None:
            note = "text_tokens is unmasked, which is about the mask, and none is connected"
            applied = replace(applied, report=f"{applied.report}\n{note}")
        remember(cls, stack)
        ui = {**applied.ui(), "strata_lora": [name], "strata_noise": [noise_steps.remember(applied.model)]}
        listed = with_listed_names(stack)
        return io.NodeOutput(applied.model, applied.clip, applied.trigger_words, applied.report, listed, ui=ui)

    @classmethod
    def _is_to_change_something(cls) -> bool:
        """Whether a node takes this one's MODEL or CLIP. Without those it may stand alone, for its stack, its words or its report."""
        prompt, node = getattr(cls.hidden, "prompt", None), getattr(cls.hidden, "unique_id", None)
        if not prompt:
            return True
        links = [value for other in prompt.values() for value in other.get("inputs", {}).values()]
        return any([node, output] in links for output in (MODEL_OUTPUT, CLIP_OUTPUT))


def _nothing_chosen(applied: Applied) -> Applied:
    """Says it, also where the incoming stack has LoRAs of its own."""
    told = "No LoRA is chosen on this loader"
    if not applied.parts:
        return replace(applied, verdict=f"{told}: nothing changed", report=f"{told}: nothing changed")
    return replace(applied, report=f"{told}.\n\n{applied.report}")
