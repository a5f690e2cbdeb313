"""Saves a stack, or a freshly trained LoRA, as one file."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora_math.algebra import budget
from ..lora_math.algebra.merge import METHODS
from ..lora_math.algebra.shrink import TYPES
from ..lora_math.baking import Recipe, bake, rounds
from ..lora_math.family import detect
from ..lora_math.schedule import parse_moment
from ..lora_math.writing.file import save
from ..lora_math.writing.header import header
from ..lora_math.writing.layouts import LAYOUTS, naming
from . import inputs
from .comfy.notices import show
from .comfy.saving import OUTPUT, Progress, save_numbered
from .comfy.targets import clip_targets, model_targets
from .loader import LoraStackType
from .report import saved as report
from .saving.gather import gather, sources_of
from .saving.options import AMOUNT, budget_of, file_inputs, now, place_of, result_outputs, shrink_inputs, thumbnail_of
from .stack import read_stack
from .trained import trained_lora

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
            hidden=[io.Hidden.unique_id],
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
        sources = sources_of(read_stack(lora_stack), trained, moment)
        targets = (None if model is None else model_targets(model), None if clip is None else clip_targets(clip))
        entries = [entry for source in sources for entry in source.entries]
        family = targets[0].family if targets[0] is not None else detect(entries, sources[0].metadata)
        # Without a model the layers keep the first file's names, and with them its way of spelling.
        names = naming(layout if targets != (None, None) else LAYOUTS[1], family, sources[0].keys)
        gathered = gather(sources, model, clip, targets, names)
        said = sum(len(value.encode()) for source in sources for value in source.metadata.values())
        recipe = Recipe(
            method,
            budget_of(shrink, amount, said),
            spectral_limit,
            density,
            drop_seed,
            TYPES[precision],
            names.style,
            keep_empty_layers,
        )
        progress = Progress(rounds(recipe) * len(gathered.layers))
        baked = bake(gathered.layers, gathered.weights, recipe, progress.step)
        tensors = names.spelled(baked.tensors)
        found = baked.quality
        told = {
            "method": method,
            "shrink": budget.show(recipe.budget),
            "spectral_limit": spectral_limit,
            "error": round(found.error, 6),
            "gain": round(found.gain, 6),
            "sources": [
                {
                    "name": source.name,
                    "hash": source.parent.sha256,
                    "strength_model": source.strength_model,
                    "strength_clip": source.strength_clip,
                    "block_weights": None if source.blocks is None else source.blocks.text,
                    **({"over_time": source.over_time, "moment": str(moment)} if source.over_time else {}),
                }
                for source in sources
            ],
        }
        parents = [source.parent for source in sources]

        def write(path: str, stem: str):
            metadata = header(stem, parents, family, baked.ranks, told, now(), picture)
            return save(path, tensors, metadata, progress.tick)

        saved, name = save_numbered(folder, filename_prefix, write)
        whose = "the first file" if targets == (None, None) else names.layout
        how = [
            f"{method}, {budget.show(recipe.budget)}, {precision}, names as {whose} has them, for {family or 'an unknown model'}"
        ]
        if targets == (None, None) and layout not in LAYOUTS[:2]:
            how.append(f"layout {layout} had no effect: connect the MODEL or CLIP that the LoRAs are for")
        if spectral_limit:
            how.append(f"singular values above {spectral_limit:g} cut to it; the error counts from there")
        how += [
            f"{source.name}: its strength over time as it is at {moment}: model {source.strength_model:g}"
            for source in sources
            if source.over_time
        ]
        if moment is not None and not any(source.over_time for source in sources):
            how.append(f"moment {moment} had no effect: no LoRA here has a strength over time")
        advice = "of DoRA, OFT, elementwise merges and the like the first 256 directions are looked at. Choose a rank, or exact."
        notes = [*gathered.notes, *report.unmet(recipe.budget, found, recipe.dtype, advice)]
        verdict = report.verdict(name, saved, list(baked.layers.values()))
        show(getattr(cls.hidden, "unique_id", None), verdict)
        text = report.text(name, saved, baked.layers, gathered.blocks, how, notes)
        ui = {
            "strata_verdict": [verdict],
            "strata_report": [text],
            "strata_warned": [bool(notes)],
            "strata_lora": [name],
        }
        return io.NodeOutput(name, tensors, text, ui=ui)
