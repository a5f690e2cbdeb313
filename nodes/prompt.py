"""LoRAs that a prompt names."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math.errors import StrataError
from ..lora_math.tags import read_tags
from .apply import apply_stack
from .comfy.library import file_key
from .comfy.lora_names import path_of
from .fitting.block_spec import BlockSpec
from .loader import LoraStackType, on_problem_input
from .stack import StackEntry

MODEL_FIRST, CLIP_FIRST = "model:clip", "clip:model (A1111)"


class StrataLoraFromPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataLoraFromPrompt",
            display_name="LoRA from Prompt (Strata)",
            category="loaders/strata",
            description="Applies the LoRAs that <lora:name:strength> tags name, and takes the tags out of the text.",
            search_aliases=["lora tag", "prompt lora", "a1111 lora", "lora syntax", "<lora:"],
            inputs=[
                io.Model.Input("model", optional=True, tooltip="The diffusion model that the LoRAs change."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoders that the LoRAs change."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    placeholder="a portrait, <lora:style:0.8>, <lora:detail:0.5:0.3:lbw=0%-50%=0>",
                    tooltip="A prompt with tags: <lora:name>, <lora:name:strength>, <lora:name:model:clip>, "
                    "te= and unet= for one of the two, lbw= for block weights by name, preset or vector.",
                ),
                io.Combo.Input(
                    "two_numbers",
                    options=[MODEL_FIRST, CLIP_FIRST],
                    default=MODEL_FIRST,
                    tooltip="What <lora:name:0.8:0.3> means. A1111 writes the text encoder first, ComfyUI packs the model.",
                ),
                on_problem_input(),
            ],
            outputs=[
                io.Model.Output("MODEL", tooltip="The diffusion model with the LoRAs."),
                io.Clip.Output("CLIP", tooltip="The text encoders with the LoRAs."),
                io.String.Output("text", tooltip="The prompt without its tags."),
                io.String.Output("trigger_words", tooltip="Words that the LoRAs were trained on; empty when unknown."),
                io.String.Output("report", tooltip="What was applied, what was left over, and why."),
                LoraStackType.Output("LORA_STACK", tooltip="The LoRAs of the tags, for nodes that take a LORA_STACK."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, text: str | None = None, **_) -> str:
        """Changes when a file that a tag names is replaced on disk."""
        try:
            return repr([file_key(path_of(tag.name)) for tag in read_tags(text or "")[1]])
        except StrataError:
            return ""  # the node itself says what is wrong

    @classmethod
    def execute(cls, text: str, two_numbers: str, model=None, clip=None, on_problem: str = "error") -> io.NodeOutput:
        cleaned, tags = read_tags(text, two_numbers == CLIP_FIRST)
        entries = []
        for tag in tags:
            blocks = None if tag.block_weights is None else BlockSpec(tag.block_weights)
            entries.append(StackEntry(tag.name, tag.strength_model, tag.strength_clip, blocks))
        applied = apply_stack(model, clip, entries if (model, clip) != (None, None) else [], on_problem)
        return io.NodeOutput(
            applied.model, applied.clip, cleaned, applied.trigger_words, applied.report, entries, ui=applied.ui()
        )
