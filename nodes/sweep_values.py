"""The values of a sweep as ComfyUI's own lists, for graphs that a person builds."""

from __future__ import annotations

from comfy_api.latest import io

from . import inputs
from .comfy.lora_names import lora_names

NUMBERS, WHOLE, NAMES, FILES = KINDS = ("numbers", "whole numbers", "names", "LoRA files")


class StrataSweepValues(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataSweepValues",
            display_name="Sweep Values (Strata)",
            category="loaders/strata",
            description="Makes a list of values from a text such as 0-1(+0.2): whatever takes the list runs once for each.",
            search_aliases=["float list", "range", "lora list", "xy plot values", "for each"],
            inputs=[
                io.Combo.Input("kind", options=list(KINDS), default=NUMBERS, tooltip="What the values are."),
                io.String.Input(
                    "values",
                    default="0-1(+0.2)",
                    multiline=True,
                    tooltip="0.4, 0.8 or 0-1(+0.2) or 0-1[6]; names with commas between them, or one on each line. LoRA files also as "
                    "folder/* or epochs of name.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "number", is_output_list=True, tooltip="Each value as a number; of names, their place from 1."
                ),
                io.Int.Output("whole_number", is_output_list=True, tooltip="The same, rounded."),
                io.String.Output("text", is_output_list=True, tooltip="Each value as a text, for names and labels."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, kind: str | None = None, **_) -> str:
        """A folder's files are others when one comes or goes."""
        return repr(sorted(lora_names())) if kind == FILES else ""

    @classmethod
    def execute(cls, kind: str | None = None, values: str | None = None) -> io.NodeOutput:
        from .sweep.axes import LORA, Known, read_axis
        from .sweep.values import entries, numbers

        kind = inputs.choice(kind, "kind", KINDS)
        text = inputs.filled(values, "values", "Write for example 0.4, 0.8 or 0-1(+0.2).")
        if kind in (NUMBERS, WHOLE):
            found = numbers(text, "values", whole=kind == WHOLE)
            shown = [f"{each:g}" if kind == NUMBERS else str(each) for each in found]
            return io.NodeOutput([float(each) for each in found], [round(each) for each in found], shown)
        if kind == FILES:
            axis = read_axis("values", LORA, text, Known(["any"], lora_names, lambda _: ()))
            names = list(axis.values)
        else:
            names = entries(text)
        places = range(1, len(names) + 1)
        return io.NodeOutput([float(at) for at in places], list(places), names)
