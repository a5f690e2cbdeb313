"""Strengths block by block, for any loader of this pack."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math.blocks import FAMILIES
from ..lora_math.errors import StrataError
from . import inputs
from .fitting.block_spec import AUTO, BlockSpec, preset_names

BlockWeightsType = io.Custom("BLOCK_WEIGHTS")
NO_PRESET = "none"
# ComfyUI makes a text of whatever a prompt sends for a text input, of null too.
NULL = "None"


class StrataLoraBlockWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataLoraBlockWeights",
            display_name="LoRA Block Weights (Strata)",
            category="loaders/strata",
            description="Weights for the blocks of a model: each multiplies the strength of a LoRA in its block.",
            search_aliases=["lora block weight", "lbw", "layer strength", "per layer", "block merge", "equalizer"],
            inputs=[
                io.Combo.Input(
                    "layout",
                    options=[AUTO, *FAMILIES],
                    default=AUTO,
                    tooltip="Whose blocks the weights name. auto: those of the model that the loader patches.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[NO_PRESET, *preset_names()],
                    default=NO_PRESET,
                    tooltip="A named set of weights. It counts only while the weights below are empty.",
                ),
                io.String.Input(
                    "weights",
                    default="",
                    multiline=True,
                    placeholder="IN4-8=0.5, OUT*=1, TE=0.4, default=0",
                    tooltip="Blocks and their weights, the last that fits wins: D7-12=0.5, S*=0, OUT0-5.attn=0.8, 0%-33%=1, "
                    "TE=0.4, OTHER=1, default=0. A vector of numbers from sd-webui or Inspire works too. Empty: 1 everywhere.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Decides the random entries R and U of a vector.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    tooltip="1 minus each weight: applies exactly what the weights leave out.",
                ),
            ],
            outputs=[
                BlockWeightsType.Output("BLOCK_WEIGHTS", tooltip="For the block_weights input of a Strata loader."),
                io.String.Output("weights_text", tooltip="The same weights by block names, as one line."),
            ],
        )

    @classmethod
    def validate_inputs(cls, preset: str | None = None) -> bool | str:
        # Naming preset here turns off ComfyUI's comparison with the list: a workflow outlives the preset that it was made with.
        return True

    @classmethod
    def fingerprint_inputs(cls, weights: str | None = None, preset: str | None = None, **_) -> str:
        """A preset by name follows its file, whether it is chosen or written into the weights."""
        text = weights if isinstance(weights, str) and weights.strip() else preset
        return BlockSpec(text).presets_named() if isinstance(text, str) and text != NO_PRESET else ""

    @classmethod
    def execute(
        cls,
        layout: str | None = AUTO,
        preset: str | None = NO_PRESET,
        weights: str | None = "",
        seed: int | None = 0,
        invert: bool | None = False,
    ) -> io.NodeOutput:
        layout = inputs.choice(layout, "layout", (AUTO, *FAMILIES))
        preset = inputs.filled(preset, "preset", "Choose one in the node's list, or 'none'.")
        weights = inputs.text(weights, "weights", "Leave it empty for 1 everywhere.")
        if weights == NULL:
            raise StrataError(
                f"weights is '{NULL}', which is what the null of a program becomes here. Leave it empty for 1 everywhere; "
                "for the preset that turns every block off write NONE."
            )
        seed, invert = inputs.whole(seed, "seed"), inputs.switch(invert, "invert")
        text = weights if weights.strip() or preset == NO_PRESET else preset
        spec = BlockSpec(text, None if layout == AUTO else layout, seed, invert)
        canonical = spec.canonical()
        return io.NodeOutput(spec, canonical, ui={"strata_weights": [canonical]})
