"""Shows what a LoRA is, and what several do together."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math.errors import StrataError
from . import inputs
from .comfy.lora_names import resolve
from .inspecting.themes import AUTO, read_theme, theme_input
from .loader import NO_LORA, LoraStackType
from .seen_files import fingerprint, remember
from .stack import StackEntry, read_stack

# Px of the picture's layout; it is drawn at twice that.
WIDTH = 720


class StrataLoraInspect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrataLoraInspect",
            display_name="Inspect LoRA (Strata)",
            category="loaders/strata",
            description="Shows what a LoRA is made of, and what the LoRAs of a stack do together, before anything is sampled.",
            search_aliases=[
                "lora info",
                "lora analyzer",
                "lora rank",
                "compare loras",
                "lora similarity",
                "lora metadata",
            ],
            inputs=[
                # No list: that of the loader is the only one that a page loads with the nodes.
                io.String.Input(
                    "lora_name",
                    default="",
                    tooltip="The name of a LoRA to look at, behind those of the stack, if one is connected.",
                ),
                theme_input("the picture"),
                LoraStackType.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="The LoRAs to look at, with their strengths and block weights: several are compared.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that the LoRAs are for: then the numbers are also relative to its weights, and the report says "
                    "what fits.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The text encoders that the LoRAs are for."),
            ],
            outputs=[
                io.Image.Output("IMAGE", tooltip="The picture, to be saved and shared."),
                io.String.Output("report", tooltip="The same in words."),
                io.String.Output("numbers", tooltip="The same as JSON, for programs: also layer by layer."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        if not isinstance(lora_name, str) or _is_none(lora_name):
            return True
        try:
            resolve(lora_name)
        except StrataError as problem:
            return str(problem)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, **_) -> str:
        return fingerprint(cls, lora_name)

    @classmethod
    def execute(
        cls, lora_name: str | None = None, theme: str = AUTO, lora_stack=None, model=None, clip=None
    ) -> io.NodeOutput:
        # What inspects is loaded when somebody inspects, and not with every start of ComfyUI.
        from .comfy.saving import Progress
        from .comfy.targets import clip_targets, model_targets
        from .inspecting.draw import image_of
        from .inspecting.text import as_json, report
        from .inspecting.view import view

        theme = read_theme(theme)
        model, clip = inputs.patchable(model, "model"), inputs.patchable(clip, "clip")
        stack = read_stack(lora_stack)
        if lora_name is not None or not stack:
            name = inputs.text(lora_name, "lora_name", "Write the name of a LoRA, or connect a LORA_STACK.")
            stack += [] if _is_none(name) else [StackEntry(name, 1.0, 1.0)]
        remember(cls, stack)
        sides = (None if model is None else model_targets(model), None if clip is None else clip_targets(clip))
        for side, owner in zip(sides, (model, clip), strict=True):
            if side is not None:
                side.measure(owner)
        progress = Progress(1)
        found = view(stack, sides, (model, clip), progress.tick)
        progress.step()
        text = report(found.ones, found.together, found.notes)
        ui = {
            "strata_verdict": [found.verdict],
            "strata_report": [text],
            # For the page, which asks for files by name: none where one of them has no file.
            "strata_stack": [[[*entry] for entry in stack] if all(entry.lora is None for entry in stack) else []],
        }
        image = image_of(found.picture(WIDTH), theme)
        return io.NodeOutput(image, text, as_json(found.ones, found.together), ui=ui)


def _is_none(name: str) -> bool:
    """Whether a name is that of no file: empty, or what a new loader holds."""
    return name.strip() in ("", NO_LORA)
