"""Saves a stack, or a freshly trained LoRA, as one file."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math.choices import LAYOUTS, METHODS, TYPES
from ..lora_math.schedule import parse_moment
from . import inputs
from .comfy.saving import OUTPUT
from .loader import LoraStackType
from .saving.options import AMOUNT, file_inputs, place_of, result_outputs, shrink_inputs, thumbnail_of
from .stack import read_stack

MAX_SEED = 2**31 - 1


class StrataLoraSave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataLoraSave",
            display_name="Save LoRA (Strata)",
            category="loaders/strata",
            description="Writes LoRAs, with their strengths and block weights, into one LoRA file, and says what was lost.",
            search_aliases=[
                "save lora",
                "merge lora",
                "lora merge",
                "resize lora",
                "bake block weights",
                "convert lokr",
                "shrink lora",
            ],
            inputs=[
                LoraStackType.Input(
                    "lora_stack", optional=True, tooltip="The LoRAs to save, with their strengths and block weights."
                ),
                io.LoraModel.Input(
                    "lora_model",
                    optional=True,
                    tooltip="A freshly trained LoRA, from Train LoRA. It goes in at strength 1.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that the LoRAs are for, without them. Needed for block weights, DoRA, OFT and the like; it also "
                    "tells the layers' names.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The text encoders that the LoRAs are for, without them."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="sum",
                    tooltip="How several LoRAs become one. sum is what applying them all does, exactly. average, normalize, orthogonalize, "
                    "slerp and the knots methods keep a low rank; ties, dare, della and magnitude work number by number: use them with "
                    "shrink, and read the error in the report.",
                ),
                *shrink_inputs(),
                *file_inputs("strata_lora"),
                io.Float.Input(
                    "spectral_limit",
                    default=0.0,
                    min=0.0,
                    max=100_000.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Cuts singular values above this down to it: for LoRAs that look fine alone and break together. 0 is off.",
                ),
                io.Float.Input(
                    "density",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="The share of the numbers that ties, dare, della and magnitude keep.",
                ),
                io.Int.Input(
                    "drop_seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    optional=True,
                    advanced=True,
                    tooltip="For dare and della, which drop at random.",
                ),
                io.Boolean.Input(
                    "keep_empty_layers",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Writes layers of which nothing is left as zeros of rank 1: some programs tell the model by a single layer.",
                ),
                io.String.Input(
                    "moment",
                    default="",
                    placeholder="50%",
                    optional=True,
                    advanced=True,
                    tooltip="For LoRAs with a strength over time, which a file cannot hold: the place in the sampling whose strengths are "
                    "saved, like 50%, 4s (steps) or 2sigma. Empty: such a LoRA is an error.",
                ),
                io.Image.Input(
                    "thumbnail", optional=True, tooltip="A picture for the file's header, which LoRA managers show."
                ),
            ],
            outputs=result_outputs(),
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        method: str | None = None,
        shrink: str | None = None,
        amount: float | None = AMOUNT,
        filename_prefix: str | None = None,
        lora_stack=None,
        lora_model=None,
        model=None,
        clip=None,
        folder: str = OUTPUT,
        precision: str = "fp16",
        layout: str = LAYOUTS[0],
        spectral_limit: float = 0.0,
        density: float = 0.5,
        drop_seed: int = 0,
        keep_empty_layers: bool = False,
        moment: str | None = "",
        thumbnail=None,
    ) -> io.NodeOutput:
        # What saves is loaded when somebody saves, and not with every start of ComfyUI.
        from .saving.stack_file import Wanted, save_stack
        from .trained import trained_lora

        method = inputs.choice(method, "method", METHODS)
        precision, layout = (
            inputs.choice(precision, "precision", tuple(TYPES)),
            inputs.choice(layout, "layout", LAYOUTS),
        )
        folder, filename_prefix = place_of(folder, filename_prefix)
        spectral_limit = inputs.number(spectral_limit, "spectral_limit", 0.0)
        density, drop_seed = inputs.number(density, "density", 0.5), inputs.whole(drop_seed, "drop_seed", 0, MAX_SEED)
        keep_empty_layers = inputs.switch(keep_empty_layers, "keep_empty_layers")
        model, clip = inputs.patchable(model, "model"), inputs.patchable(clip, "clip")
        picture = thumbnail_of(thumbnail)
        chosen = inputs.text(
            "" if moment is None else moment, "moment", "Write a place in the sampling like 50%, or nothing."
        ).strip()
        moment = parse_moment(chosen) if chosen else None
        trained = None if lora_model is None else trained_lora(lora_model)
        wanted = Wanted(
            *(method, shrink, amount, folder, filename_prefix, precision, layout, spectral_limit, density, drop_seed),
            *(keep_empty_layers, moment, picture),
        )
        return save_stack(read_stack(lora_stack), trained, model, clip, wanted)
