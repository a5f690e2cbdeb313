"""The difference of two models as a LoRA file."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math.choices import LAYOUTS, TYPES
from ..lora_math.errors import StrataError
from . import inputs
from .comfy.saving import OUTPUT
from .saving.options import AMOUNT, budget_of, file_inputs, place_of, result_outputs, shrink_inputs

RANK, MAX_RANK = 32, 1024


class StrataLoraExtract(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataLoraExtract",
            display_name="Extract LoRA (Strata)",
            category="loaders/strata",
            description="Writes the difference of two models, whatever patches are on them, as a LoRA file, and says what was lost.",
            search_aliases=["extract lora", "model difference", "checkpoint to lora", "subtract models"],
            inputs=[
                io.Model.Input("model", optional=True, tooltip="The model that the LoRA shall lead to."),
                io.Model.Input("base_model", optional=True, tooltip="The model that the LoRA shall be used on."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoders that the LoRA shall lead to."),
                io.Clip.Input("base_clip", optional=True, tooltip="The text encoders that the LoRA shall be used on."),
                io.Int.Input(
                    "rank",
                    default=RANK,
                    min=1,
                    max=MAX_RANK,
                    tooltip="The largest rank of a layer. Higher is nearer and larger.",
                ),
                *shrink_inputs(),
                *file_inputs("strata_extracted"),
            ],
            outputs=result_outputs(),
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        rank: int | None = None,
        shrink: str | None = None,
        amount: float | None = AMOUNT,
        filename_prefix: str | None = None,
        model=None,
        base_model=None,
        clip=None,
        base_clip=None,
        folder: str = OUTPUT,
        precision: str = "fp16",
        layout: str = LAYOUTS[0],
    ) -> io.NodeOutput:
        # What saves is loaded when somebody saves, and not with every start of ComfyUI.
        from .saving.difference import save_difference

        for name, tuned, base in (("model", model, base_model), ("clip", clip, base_clip)):
            inputs.patchable(tuned, name)
            inputs.patchable(base, f"base_{name}")
            if (tuned is None) != (base is None):
                missing = f"base_{name}" if base is None else name
                raise StrataError(f"Connect {missing} too: Extract LoRA takes the difference of two.")
        if model is None and clip is None:
            raise StrataError("Nothing is connected: connect model and base_model, clip and base_clip, or all four.")
        rank = inputs.whole(rank, "rank", RANK, MAX_RANK)
        precision, layout = (
            inputs.choice(precision, "precision", tuple(TYPES)),
            inputs.choice(layout, "layout", LAYOUTS),
        )
        folder, filename_prefix = place_of(folder, filename_prefix)
        place = folder, filename_prefix
        return save_difference(
            *((model, base_model), (clip, base_clip), rank, budget_of(shrink, amount), place, precision, layout),
        )
