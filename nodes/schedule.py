"""Strength over the sampling, and over the prompts, for any loader of this pack."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math import schedule
from ..lora_math.errors import StrataError
from ..lora_math.schedule import Variation
from . import inputs

LoraScheduleType = io.Custom("LORA_SCHEDULE")


def _factor(name: str, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=1.0, min=-100.0, max=100.0, step=0.05, tooltip=tooltip)


class StrataLoraSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataLoraSchedule",
            display_name="LoRA Strength over Time (Strata)",
            category="loaders/strata",
            description="How the strength of a LoRA changes while the image is made, and whether it acts on the negative prompt.",
            search_aliases=[
                "lora schedule",
                "lora keyframes",
                "lora curve",
                "strength over time",
                "fade in",
                "loractl",
            ],
            inputs=[
                io.String.Input(
                    "strength",
                    default="0@0%, 1@100%",
                    multiline=True,
                    placeholder="0@0%, 1@50%, 0@100%",
                    tooltip="Points, strength@place: 0@0%, 1@50%, 0@100% fades in and out. Places in percent of the sampling, in steps "
                    "(1@4s) or in noise (1@2sigma); straight lines between the points, or begin with smooth: or hold:. "
                    "fade in, fade out, first third, last third and pulse are known by name. It multiplies strength_model.",
                ),
                _factor("positive", "Multiplies the strength for the positive prompt."),
                _factor(
                    "negative",
                    "Multiplies the strength for the negative prompt. 0: the LoRA acts on the positive one only.",
                ),
            ],
            outputs=[
                LoraScheduleType.Output("LORA_SCHEDULE", tooltip="For the keyframes input of a Strata loader."),
                io.String.Output("text", tooltip="The points as one line, each place with its unit."),
            ],
        )

    @classmethod
    def validate_inputs(cls, strength: str | None = None) -> bool | str:
        # It comes over a link.
        if strength is None:
            return True
        try:
            schedule.parse(inputs.text(strength, "strength", "Write points like 0@0%, 1@100%."))
        except StrataError as problem:
            return str(problem)
        return True

    @classmethod
    def execute(
        cls, strength: str | None = None, positive: float | None = 1.0, negative: float | None = 1.0
    ) -> io.NodeOutput:
        text = inputs.text(strength, "strength", "Write points like 0@0%, 1@100%.")
        factors = inputs.number(positive, "positive"), inputs.number(negative, "negative")
        found = schedule.parse(text)
        return io.NodeOutput(Variation(found, *factors), str(found), ui={"strata_schedule": [str(found)]})
