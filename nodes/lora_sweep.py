"""The sweep: a grid of pictures over strengths, files, blocks and whatever else, drawn one after another."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math.errors import StrataError
from . import inputs
from .comfy.drawing import guided_model, has_cfg, samplers
from .comfy.lora_names import lora_names, resolve
from .inspecting.themes import AUTO, read_theme
from .loader import NO_LORA, LoraStackType
from .seen_files import ask_again, fingerprint, remember
from .stack import StackEntry, read_stack
from .sweep.axes import CFG, KINDS, LORA, MAX_STRENGTH, NONE, PROMPT, STEPS, STRENGTHS
from .sweep.plan import COMPARE, MAX_CELLS
from .sweep.sheet_inputs import CELL_SIZE, read_cell_size, sheet_inputs

LETTERS = ("x", "y", "z")
APPLY = ("live", "patch", "auto")
PREFIX = "sweep/strata"


def axis_inputs(letter: str, default: str, example: str) -> list:
    where = {"x": "across", "y": "down", "z": "on sheets of their own"}[letter]
    return [
        io.Combo.Input(
            f"{letter}_axis",
            options=list(KINDS),
            default=default,
            tooltip=f"What changes from picture to picture, {where}.",
        ),
        io.String.Input(
            f"{letter}_values",
            default=example,
            multiline=True,
            tooltip="Its values: 0.4, 0.8 or 0-1(+0.2) or 0-1[6]; names with commas between them, or one on each line. LoRA files: a "
            "folder/* or epochs of name. Blocks: all, groups, or names. Prompt: what to replace, then what by. With several LoRAs begin "
            "with row 2: or all rows:",
        ),
    ]


class StrataSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        known = samplers()
        return io.Schema(
            node_id="StrataSweep",
            display_name="LoRA Sweep (Strata)",
            category="loaders/strata",
            description="Draws a grid of pictures over LoRA strengths, files, blocks and more, one after another, and measures how they "
            "differ.",
            search_aliases=[
                "xy plot",
                "xyz plot",
                "lora grid",
                "lora strength test",
                "compare loras",
                "compare epochs",
                "block weight test",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The diffusion model, without the LoRAs that change. A guider brings its own.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The text encoders, for the prompts below."),
                io.Vae.Input("vae", tooltip="Makes pictures of what was sampled."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The empty or encoded latent that every picture begins from, at most 16 of them.",
                ),
                io.String.Input(
                    "lora_name",
                    default="",
                    tooltip="The LoRA to look at, by name; it stands behind those of the stack.",
                ),
                *axis_inputs("x", "strength", "0-1.2(+0.2)"),
                *axis_inputs("y", NONE, ""),
                *axis_inputs("z", NONE, ""),
                io.String.Input("positive", default="", multiline=True, tooltip="What the pictures show."),
                io.String.Input("negative", default="", multiline=True, tooltip="What they should not show."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The noise that every picture begins from, where no axis says otherwise.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="As on KSampler."),
                io.Float.Input(
                    "cfg", default=7.0, min=0.0, max=1000.0, step=0.1, round=0.01, tooltip="As on KSampler."
                ),
                io.Combo.Input("sampler_name", options=known.samplers, default="euler", tooltip="As on KSampler."),
                io.Combo.Input("scheduler", options=known.schedulers, default="simple", tooltip="As on KSampler."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, optional=True, tooltip="As on KSampler."
                ),
                io.Combo.Input(
                    "apply",
                    options=list(APPLY),
                    default="live",
                    optional=True,
                    tooltip="live: another strength costs nothing but its sampling. patch and auto: as the LoRA Loader does it, bit for "
                    "bit.",
                ),
                io.Combo.Input(
                    "compare_with",
                    options=list(COMPARE),
                    default=COMPARE[0],
                    optional=True,
                    tooltip="What the differences are measured from: the same picture with the LoRA at strength 0, the same without any "
                    "change of a LoRA, one cell for all, or nothing.",
                ),
                io.Int.Input(
                    "compare_cell",
                    default=1,
                    min=1,
                    max=MAX_CELLS,
                    optional=True,
                    advanced=True,
                    tooltip="For compare_with = cell: its number, in reading order from 1.",
                ),
                *sheet_inputs("The files keep their size."),
                io.String.Input(
                    "filename_prefix",
                    default=PREFIX,
                    optional=True,
                    tooltip="Where everything is saved, in ComfyUI's output folder, as on Save Image.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    optional=True,
                    tooltip="Takes pictures that an earlier run with the same settings saved under this prefix, instead of drawing them.",
                ),
                *(
                    io.Float.Input(
                        name,
                        default=1.0,
                        min=-MAX_STRENGTH,
                        max=MAX_STRENGTH,
                        step=0.01,
                        optional=True,
                        tooltip=f"How strongly lora_name changes the {what}, where no axis says otherwise.",
                    )
                    for name, what in (("strength_model", "diffusion model"), ("strength_clip", "text encoders"))
                ),
                LoraStackType.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="The LoRAs to look at, from a LoRA Loader or Stack, whose MODEL must not be the one that goes in here.",
                ),
                io.Sampler.Input("sampler", optional=True, tooltip="Takes the place of sampler_name."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Takes the place of steps, scheduler and denoise."),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip="Takes the place of model, clip, the prompts and cfg: its model gets the LoRAs, its prompts stay as they are.",
                ),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="The labelled sheets."),
                io.Image.Output("images", tooltip="The single pictures, in reading order."),
                io.Image.Output("differences", tooltip="Maps of the difference, all on one scale."),
                io.Image.Output("curve", tooltip="How far the pictures are from what they are compared with."),
                io.String.Output(
                    "csv", tooltip="A row for each cell: values, RMS, mean absolute difference, SSIM, block energies."
                ),
                io.String.Output("json", tooltip="The same for programs."),
                io.String.Output("report", tooltip="What was drawn, what was there already, what failed and why."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        if not isinstance(lora_name, str) or lora_name.strip() in ("", NO_LORA):
            return True
        try:
            resolve(lora_name)
        except StrataError as problem:
            return str(problem)
        return True

    @classmethod
    def fingerprint_inputs(
        cls,
        lora_name: str | None = None,
        x_axis: str | None = None,
        y_axis: str | None = None,
        z_axis: str | None = None,
        **_,
    ) -> str:
        """Changes with the files that were used, and with the list of them where an axis may name a folder."""
        listed = LORA in (x_axis, y_axis, z_axis)
        return fingerprint(cls, lora_name) + (repr(hash(tuple(sorted(lora_names())))) if listed else "")

    @classmethod
    def execute(
        cls,
        vae=None,
        latent_image=None,
        model=None,
        clip=None,
        lora_name: str | None = "",
        x_axis: str | None = NONE,
        x_values: str | None = "",
        y_axis: str | None = NONE,
        y_values: str | None = "",
        z_axis: str | None = NONE,
        z_values: str | None = "",
        positive: str | None = "",
        negative: str | None = "",
        seed: int | None = 0,
        steps: int | None = 20,
        cfg: float | None = 7.0,
        sampler_name: str | None = "euler",
        scheduler: str | None = "simple",
        denoise: float | None = 1.0,
        apply: str | None = "live",
        compare_with: str | None = COMPARE[0],
        compare_cell: int | None = 1,
        cell_size: int | None = CELL_SIZE,
        theme: str | None = AUTO,
        filename_prefix: str | None = PREFIX,
        resume: bool | None = True,
        strength_model: float | None = 1.0,
        strength_clip: float | None = 1.0,
        lora_stack=None,
        sampler=None,
        sigmas=None,
        guider=None,
    ) -> io.NodeOutput:
        # What draws and measures is loaded when somebody sweeps, and not with every start of ComfyUI.
        from .comfy.drawing import Way
        from .sweep import wires
        from .sweep.energies import Blocks
        from .sweep.plan import Settings
        from .sweep.work import Request, work

        known = samplers()
        latent, count = wires.latent(latent_image)
        if vae is None or not callable(getattr(vae, "decode", None)):
            raise StrataError("vae is missing: connect the output of a VAE or checkpoint loader.")
        model = inputs.patchable(model, "model")
        clip = inputs.patchable(clip, "clip")
        if guider is not None:
            model, clip = guided_model(guider), None
        elif model is None:
            raise StrataError("model is missing: connect a MODEL, or a guider.")
        elif clip is None:
            raise StrataError("clip is missing: connect the text encoders that read the prompts, or a guider.")
        way = Way(
            inputs.choice(sampler_name or "euler", "sampler_name", known.samplers),
            inputs.choice(scheduler or "simple", "scheduler", known.schedulers),
            _between(inputs.number(denoise, "denoise"), "denoise", 0, 1),
            latent,
            vae,
            wires.sampler(sampler),
            wires.sigmas(sigmas),
            guider,
        )
        wires.refuse_twice(cls)
        rows = read_stack(lora_stack)
        name = inputs.text("" if lora_name is None else lora_name, "lora_name", "Write the name of a LoRA, or nothing.")
        strengths = [
            _between(inputs.number(value, which, 1.0), which, -MAX_STRENGTH, MAX_STRENGTH)
            for value, which in ((strength_model, "strength_model"), (strength_clip, "strength_clip"))
        ]
        if name.strip() not in ("", NO_LORA):
            rows.append(StackEntry(name.strip(), *strengths))
        prompts = [
            inputs.text("" if text is None else text, what, "Write a prompt, or nothing.")
            for text, what in ((positive, "positive"), (negative, "negative"))
        ]
        plain = Settings(
            tuple(rows),
            *prompts,
            _between(inputs.whole(seed, "seed"), "seed", 0, 2**64 - 1),
            _between(inputs.whole(steps, "steps", 20), "steps", 1, 10_000),
            _between(inputs.number(cfg, "cfg", 7.0), "cfg", 0, 1000),
        )
        blocks = Blocks(model, clip)
        found = _axes(((x_axis, x_values), (y_axis, y_values), (z_axis, z_values)), rows, blocks, guider, sigmas)
        request = Request(
            plain,
            found,
            blocks,
            way,
            inputs.choice(apply, "apply", APPLY),
            inputs.choice(compare_with, "compare_with", COMPARE),
            _between(inputs.whole(compare_cell, "compare_cell", 1), "compare_cell", 1, MAX_CELLS),
            read_cell_size(cell_size),
            read_theme(theme),
            inputs.filled(filename_prefix or PREFIX, "filename_prefix", "Write a name for the files."),
            inputs.switch(resume, "resume", True),
            count,
            node=getattr(cls.hidden, "unique_id", None),
            prompt=getattr(cls.hidden, "prompt", None),
            extra=getattr(cls.hidden, "extra_pnginfo", None),
        )
        done = work(request)
        remember(cls, done.entries)
        if done.failed:
            ask_again(cls)
        return io.NodeOutput(*done.outputs, ui=done.ui)


def _axes(asked, rows, blocks, guider, sigmas) -> list:
    from .sweep.axes import Known, read_axis

    known = Known([row[0] for row in rows], lora_names, lambda at: blocks.of(rows[at]))
    found = []
    for letter, (kind, text) in zip(LETTERS, asked, strict=True):
        kind = inputs.choice(kind, f"{letter}_axis", (NONE, *KINDS))
        text = inputs.text("" if text is None else text, f"{letter}_values", "Write the values of the axis.")
        axis = read_axis(letter, kind, text, known)
        if axis is None:
            continue
        if sigmas is not None and kind == STEPS:
            raise StrataError(
                f"{letter}_axis: the sigmas that are connected hold the steps. Disconnect them, or choose another axis."
            )
        if guider is not None and kind in (PROMPT, STRENGTHS[2]):
            raise StrataError(
                f"{letter}_axis: the guider that is connected holds encoded prompts. Disconnect it, or choose another axis."
            )
        if guider is not None and kind == CFG and not has_cfg(guider):
            raise StrataError(f"{letter}_axis: the guider that is connected has no single cfg. Choose another axis.")
        found.append(axis)
    return found


def _between(value, name: str, low, high):
    if not low <= value <= high:
        raise StrataError(f"{name} is {value:g}: it goes from {low:g} to {high:g}.")
    return value
