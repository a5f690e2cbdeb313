"""LoRAs that a prompt names."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math.errors import StrataError
from ..lora_math.tags import read_tags
from . import inputs
from .loader import ON_PROBLEM, LoraStackType, on_problem_input
from .seen_files import fingerprint, remember, state
from .stack import of_tag, with_listed_names

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
                    "te= and unet= for one of the two, lbw= for block weights by name, preset or vector, at= for a strength over time.",
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
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, text: str | None = None, two_numbers: str | None = MODEL_FIRST, **_) -> str:
        """Changes when a file that a tag names is replaced on disk, or a preset that it names is changed, also when the text came over a
        link."""
        try:
            # Over a link anything may come: the node itself says what is wrong.
            tags = read_tags(text, two_numbers == CLIP_FIRST)[1] if isinstance(text, str) else []
            own = [state(entry[0], entry.block_weights) for entry in map(of_tag, tags)]
        except StrataError:
            own = []
        return "\n".join(filter(None, (*own, fingerprint(cls))))

    @classmethod
    def execute(
        cls,
        text: str | None = None,
        two_numbers: str | None = MODEL_FIRST,
        model=None,
        clip=None,
        on_problem: str | None = "error",
    ) -> io.NodeOutput:
        # What applies LoRAs is loaded when somebody applies one, and not with every start of ComfyUI.
        from .apply import apply_stack, describe_stack
        from .comfy.targets import model_targets

        text = inputs.text(text, "text", "Write a prompt, or connect one.")
        order = inputs.choice(two_numbers, "two_numbers", (MODEL_FIRST, CLIP_FIRST))
        on_problem = inputs.choice(on_problem, "on_problem", ON_PROBLEM)
        model, clip = inputs.patchable(model, "model"), inputs.patchable(clip, "clip")
        cleaned, tags = read_tags(text, order == CLIP_FIRST)
        entries = [of_tag(tag) for tag in tags]
        if (model, clip) == (None, None):
            applied = describe_stack(entries, on_problem)
        else:
            applied = apply_stack(model, clip, entries, on_problem)
        remember(cls, entries)
        listed = with_listed_names(entries)
        ui = {**applied.ui(), "strata_family": [None if model is None else model_targets(model).family]}
        return io.NodeOutput(applied.model, applied.clip, cleaned, applied.trigger_words, applied.report, listed, ui=ui)
