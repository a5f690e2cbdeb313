"""What the example workflows hold, as data: nodes by key, their values, and which output each input takes.

``devtools.examples`` builds them in the real editor and saves them as it does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

HUGGING_FACE = "https://huggingface.co"
TOY = "strata_toy"  # how the names of the toy's files begin
GREEN, RED, AMBER = ("#232", "#353"), ("#322", "#533"), ("#432", "#653")


@dataclass(frozen=True)
class Model:
    """A public file, as ComfyUI's missing-model window wants it."""

    name: str
    url: str
    directory: str


def _hugging_face(directory: str, repository: str, name: str, folder: str = "") -> Model:
    return Model(name, f"{HUGGING_FACE}/{repository}/resolve/main/{folder}{name}", directory)


def _wan(directory: str, name: str, version: str = "2.2_ComfyUI_Repackaged") -> Model:
    return _hugging_face(directory, f"Comfy-Org/Wan_{version}", name, f"split_files/{directory}/")


SD15 = _hugging_face("checkpoints", "Comfy-Org/stable-diffusion-v1-5-archive", "v1-5-pruned-emaonly-fp16.safetensors")
SDXL = _hugging_face("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors")
FLUX = _hugging_face("checkpoints", "Comfy-Org/flux1-dev", "flux1-dev-fp8.safetensors")
PIXEL_ART = _hugging_face(
    "loras",
    "artificialguybr/pixelartredmond-1-5v-pixel-art-loras-for-sd-1-5",
    "PixelArtRedmond15V-PixelArt-PIXARFK.safetensors",
)
DETAIL = _hugging_face("loras", "OedoSoldier/detail-tweaker-lora", "add_detail.safetensors")
PIXEL_ART_XL = _hugging_face("loras", "nerijs/pixel-art-xl", "pixel-art-xl.safetensors")
FLUX_DETAIL = _hugging_face(
    "loras", "Shakker-Labs/FLUX.1-dev-LoRA-add-details", "FLUX-dev-lora-add_details.safetensors"
)
SPEED = _hugging_face("loras", "ByteDance/Hyper-SD", "Hyper-SD15-8steps-lora.safetensors")
WAN_HIGH = _wan("diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors")
WAN_LOW = _wan("diffusion_models", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors")
WAN_TEXT = _wan("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "2.1_ComfyUI_repackaged")
WAN_VAE = _wan("vae", "wan_2.1_vae.safetensors")
WAN_SPEED_HIGH = _wan("loras", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors")
WAN_SPEED_LOW = _wan("loras", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors")


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        at: left and top, below the title bar, in canvas units.
        size: width and the least height.
        values: widget name -> value, for what differs from the node's default.
        inputs: input name -> (key of a node, name of its output).
        model: the file that a loader node names; more_models: the others where it names several.
    """

    kind: str
    at: tuple[int, int]
    size: tuple[int, int] = (320, 0)
    values: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    title: str | None = None
    colours: tuple[str, str] | None = None
    model: Model | None = None
    more_models: tuple[Model, ...] = ()

    def plain(self) -> dict[str, Any]:
        return asdict(self)


Graph = dict[str, Node]
LEFT, LOADER, PROMPT, SAMPLER, END = 40, 400, 800, 1260, 1620
TOP = 120


def note(title: str, *lines: str, height: int = 130) -> Node:
    text = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    return Node("MarkdownNote", (LEFT, -80), (700, height), {"text": text}, title=title, colours=AMBER)


def checkpoint(model: Model) -> Node:
    return Node("CheckpointLoaderSimple", (LEFT, TOP), values={"ckpt_name": model.name}, model=model)


def loader(model: Model, at: tuple[int, int] = (LOADER, TOP), source: str = "checkpoint", **changes: Any) -> Node:
    """A LoRA Loader after ``source``; ``changes`` are widget values, or inputs where they are pairs."""
    inputs = {"model": (source, "MODEL"), "clip": (source, "CLIP")}
    inputs |= {name: value for name, value in changes.items() if isinstance(value, tuple)}
    values = {"lora_name": model.name} | {name: value for name, value in changes.items() if name not in inputs}
    return Node("StrataLoraLoader", at, (360, 0), values, inputs, model=model)


def text(words: str, top: int, clip: str, title: str, colours: tuple[str, str]) -> Node:
    return Node("CLIPTextEncode", (PROMPT, top), (420, 170), {"text": words}, {"clip": (clip, "CLIP")}, title, colours)


def picture(
    latent: str,
    width: int,
    positive: str,
    negative: str,
    model: str,
    prefix: str,
    vae: str = "checkpoint",
    **sampler: Any,
) -> Graph:
    """From an empty latent image to a saved picture; ``sampler``: what differs from 20 steps of Euler with a fixed seed."""
    sampler = {"seed": 42, "control_after_generate": "fixed", "steps": 20, "sampler_name": "euler", **sampler}
    wires = {
        "model": (model, "MODEL"),
        "positive": (positive, "CONDITIONING"),
        "negative": (negative, "CONDITIONING"),
        "latent_image": ("latent", "LATENT"),
    }
    return {
        "latent": Node(latent, (PROMPT, 600), (420, 0), {"width": width, "height": width}),
        "sampler": Node("KSampler", (SAMPLER, TOP), values=sampler, inputs=wires),
        "decode": Node("VAEDecode", (SAMPLER, 480), inputs={"samples": ("sampler", "LATENT"), "vae": (vae, "VAE")}),
        "save": Node("SaveImage", (END, TOP), (460, 520), {"filename_prefix": prefix}, {"images": ("decode", "IMAGE")}),
    }


def unet_graph(base: Model, words: str, prefix: str, between: Graph, last: str, width: int = 512) -> Graph:
    """A checkpoint, the nodes ``between`` of which ``last`` gives MODEL and CLIP, and a picture from two prompts."""
    return {
        "checkpoint": checkpoint(base),
        **between,
        "positive": text(words, TOP, last, "Prompt", GREEN),
        "negative": text("blurry, low quality, text, watermark", 350, last, "Negative prompt", RED),
        **picture("EmptyLatentImage", width, "positive", "negative", last, prefix, cfg=7.0, scheduler="normal"),
    }


PIXEL_PROMPT = "pixel art, PixArFK, a lighthouse on a cliff at sunset, warm light"


def on_sd15() -> Graph:
    words = note(
        "One LoRA",
        "Choose a checkpoint, and a LoRA that was trained for the same family of models.",
        "Move **strength_model**: 1 is what was trained, 0 the picture without the LoRA, below 0 the opposite.",
        "After a run the line under the sliders says how much of the file fitted. Click it for the trigger words.",
    )
    lora = loader(PIXEL_ART, strength_model=0.8, strength_clip=0.8)
    return {**unet_graph(SD15, PIXEL_PROMPT, "strata", {"lora": lora}, "lora"), "note": words}


def on_sdxl() -> Graph:
    words = note(
        "One LoRA on SDXL",
        "SDXL wants 1024 x 1024 pixels, and a LoRA for SDXL: one for SD1.5 is an error that says so.",
        "**strength_clip** matters only for a LoRA that was trained with the text encoders.",
        "Two or more LoRAs: put another loader behind this one. They are applied together.",
    )
    lora = loader(PIXEL_ART_XL, strength_model=0.9, strength_clip=0.9)
    prompt = "pixel, a small house in a forest clearing, autumn, simple, flat colors"
    return {**unet_graph(SDXL, prompt, "strata_sdxl", {"lora": lora}, "lora", 1024), "note": words}


def on_flux() -> Graph:
    words = note(
        "One LoRA on FLUX",
        "FLUX is guided by **FluxGuidance**; leave the sampler's **cfg** at 1, and the negative prompt is not used.",
        "Most FLUX LoRAs do not change the text encoders: **strength_clip** then has no effect.",
        "With an fp8 checkpoint choose **live** at **apply**: the LoRA then keeps all of its precision.",
    )
    prompt = "a watchmaker at his bench, macro photo, brass gears, soft window light, fine detail"
    return {
        "checkpoint": checkpoint(FLUX),
        "lora": loader(FLUX_DETAIL, strength_model=0.8, apply="live"),
        "positive": text(prompt, TOP, "lora", "Prompt", GREEN),
        "guidance": Node(
            "FluxGuidance", (PROMPT, 350), (420, 0), {"guidance": 3.5}, {"conditioning": ("positive", "CONDITIONING")}
        ),
        "negative": Node(
            "ConditioningZeroOut", (PROMPT, 480), (420, 0), inputs={"conditioning": ("positive", "CONDITIONING")}
        ),
        **picture(
            "EmptySD3LatentImage", 1024, "guidance", "negative", "lora", "strata_flux", cfg=1.0, scheduler="simple"
        ),
        "note": words,
    }


def block_weights() -> Graph:
    words = note(
        "Block weights",
        "One fader per block of the model: each multiplies the strength there. Grey is the LoRA's share of the block.",
        "Drag across faders to paint; **S** solos a group, **M** mutes it. Here the LoRA acts mostly in the later blocks.",
        "The same as text stands in **weights**; vectors from sd-webui and Inspire can be pasted there.",
    )
    desk = Node(
        "StrataLoraBlockWeights",
        (LEFT, 290),
        (430, 0),
        {"weights": "IN*=0.2, M0=0.2, OUT3-5=0.6, OUT6-11=1, TE=0.8, default=1"},
    )
    lora = loader(PIXEL_ART, at=(LOADER + 110, TOP), block_weights=("desk", "BLOCK_WEIGHTS"))
    graph = unet_graph(SD15, PIXEL_PROMPT, "strata_blocks", {"desk": desk, "lora": lora}, "lora")
    return {**_shifted(graph, 110, keep=("checkpoint", "desk", "lora")), "note": words}


def live() -> Graph:
    words = note(
        "Live strength",
        "**apply = live** runs a LoRA beside the model and never touches its weights.",
        "Move **strength_model** of either loader and queue again: nothing is patched anew, sampling starts at once.",
        "To merge or save the model choose **patch**.",
    )
    first = loader(PIXEL_ART, strength_model=0.8, strength_clip=0.8, apply="live")
    second = loader(DETAIL, at=(LOADER, 520), source="first", strength_model=0.5, strength_clip=0.5, apply="live")
    graph = unet_graph(SD15, PIXEL_PROMPT, "strata_live", {"first": first, "second": second}, "second")
    return {**graph, "note": words}


def over_time() -> Graph:
    words = note(
        "Strength over time",
        "The curve multiplies **strength_model** while the image is made: press for a point, drag it, right click removes it.",
        "Here the composition comes from the model alone, and the LoRA sets in at 30 %.",
        "With **keyframes** the LoRA always runs live. The text encoders keep one strength.",
    )
    curve = Node("StrataLoraSchedule", (LEFT, 290), (340, 0), {"strength": "hold: 0@0%, 1@30%"})
    lora = loader(PIXEL_ART, strength_model=1.0, strength_clip=0.8, keyframes=("curve", "LORA_SCHEDULE"))
    lora = replace(lora, at=(LOADER + 110, TOP))
    graph = unet_graph(SD15, PIXEL_PROMPT, "strata_time", {"curve": curve, "lora": lora}, "lora")
    return {**_shifted(graph, 110, keep=("checkpoint", "curve", "lora")), "note": words}


def speed_first() -> Graph:
    words = note(
        "Speed LoRA on the first steps",
        "A speed LoRA finds the composition in a few steps, and takes away detail and variety in the later ones.",
        "Here it acts on the first four steps of twelve, by the curve in **steps**; the model finishes by itself.",
        "**cfg** stays low while a speed LoRA acts. Drag the jump of the curve to let it act longer.",
    )
    curve = Node("StrataLoraSchedule", (LEFT, 290), (340, 0), {"strength": "hold: 1@0s, 0@4s"})
    lora = loader(SPEED, strength_model=1.0, strength_clip=0.0, keyframes=("curve", "LORA_SCHEDULE"))
    lora = replace(lora, at=(LOADER + 110, TOP))
    graph = unet_graph(SD15, PIXEL_PROMPT.removeprefix("pixel art, PixArFK, "), "strata_speed", {}, "lora")
    sampler = graph["sampler"]
    graph["sampler"] = replace(sampler, values={**sampler.values, "steps": 12, "cfg": 3.0, "scheduler": "sgm_uniform"})
    graph = {"checkpoint": graph.pop("checkpoint"), "curve": curve, "lora": lora, **graph}
    return {**_shifted(graph, 110, keep=("checkpoint", "curve", "lora")), "note": words}


def wan_pair() -> Graph:
    words = note(
        "A pair of LoRAs for Wan 2.2",
        "Wan 2.2 is two models: **model** takes the one for much noise, **model_low** the one for little.",
        "One row holds both files of a LoRA: the one is found by the other's name, and each acts on its own model.",
        "The row has a strength for each; 0 switches one side off. A file that is for both models acts on both.",
        "Both samplers count the same steps: the first ends where the second begins.",
        height=160,
    )
    rows = f"<lora:{_stem(WAN_SPEED_HIGH)}:1;1>"
    models = {
        "high": Node("UNETLoader", (LEFT, TOP), (340, 0), {"unet_name": WAN_HIGH.name}, model=WAN_HIGH),
        "low": Node("UNETLoader", (LEFT, 270), (340, 0), {"unet_name": WAN_LOW.name}, model=WAN_LOW),
        "text": Node("CLIPLoader", (LEFT, 420), (340, 0), {"clip_name": WAN_TEXT.name, "type": "wan"}, model=WAN_TEXT),
        "vae": Node("VAELoader", (LEFT, 600), (340, 0), {"vae_name": WAN_VAE.name}, model=WAN_VAE),
    }
    wires = {"model": ("high", "MODEL"), "model_low": ("low", "MODEL"), "clip": ("text", "CLIP")}
    stack = Node(
        "StrataLoraStack", (LOADER + 20, TOP), (420, 0), {"rows": rows}, wires,
        model=WAN_SPEED_HIGH, more_models=(WAN_SPEED_LOW,),
    )  # fmt: skip
    shifts = {
        f"shift_{name}": Node("ModelSamplingSD3", (880, top), (300, 0), {"shift": 5.0}, {"model": ("stack", output)})
        for name, top, output in (("high", TOP, "MODEL"), ("low", 240, "MODEL_LOW"))
    }
    prompts = {
        "positive": replace(
            text("a paper boat drifts down a stream in the rain, close to the water", 380, "stack", "Prompt", GREEN),
            at=(880, 380),
        ),
        "negative": replace(text("blurry, static, text", 600, "stack", "Negative prompt", RED), at=(880, 600)),
    }
    latent = Node("EmptyHunyuanLatentVideo", (880, 830), (420, 0), {"width": 640, "height": 640, "length": 49})
    plain = {
        "noise_seed": 42, "control_after_generate": "fixed", "steps": 4, "cfg": 1.0, "sampler_name": "euler",
        "scheduler": "simple",
    }  # fmt: skip
    wires = {"positive": ("positive", "CONDITIONING"), "negative": ("negative", "CONDITIONING")}
    samplers = {
        "first": Node(
            "KSamplerAdvanced", (1340, TOP), (320, 0),
            {**plain, "add_noise": "enable", "start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "enable"},
            {"model": ("shift_high", "MODEL"), **wires, "latent_image": ("latent", "LATENT")},
        ),
        "second": Node(
            "KSamplerAdvanced", (1340, 560), (320, 0),
            {**plain, "add_noise": "disable", "start_at_step": 2, "end_at_step": 10000, "return_with_leftover_noise": "disable"},
            {"model": ("shift_low", "MODEL"), **wires, "latent_image": ("first", "LATENT")},
        ),
    }  # fmt: skip
    end = {
        "decode": Node("VAEDecode", (1700, TOP), inputs={"samples": ("second", "LATENT"), "vae": ("vae", "VAE")}),
        "video": Node("CreateVideo", (1700, 240), values={"fps": 16.0}, inputs={"images": ("decode", "IMAGE")}),
        "save": Node(
            "SaveVideo", (1700, 380), (400, 0), {"filename_prefix": "strata_wan"}, {"video": ("video", "VIDEO")}
        ),
    }
    return {**models, "stack": stack, **shifts, **prompts, "latent": latent, **samplers, **end, "note": words}


def by_mask() -> Graph:
    words = note(
        "Two LoRAs by mask",
        "Each loader has a **mask**: where it is white, its LoRA acts. Both act in one run of the model, at no extra cost.",
        "**Feather Mask** makes the border soft. A painted mask does as well (*Load Image (as Mask)*), of any size.",
        "Words have no place in the picture: **strength_clip** is 0 here, so that neither LoRA reaches over the border by them.",
    )
    mask = "MASK"
    masks = {
        "black": Node("SolidMask", (LEFT, 320), values={"value": 0.0, "width": 512, "height": 512}),
        "half": Node("SolidMask", (LEFT, 490), values={"value": 1.0, "width": 304, "height": 512}),
        "soft": Node("FeatherMask", (LEFT, 660), values={"right": 96}, inputs={"mask": ("half", mask)}),
        "left": Node(
            "MaskComposite",
            (LEFT, 860),
            values={"operation": "add"},
            inputs={"destination": ("black", mask), "source": ("soft", mask)},
        ),
        "right": Node("InvertMask", (LOADER, 960), inputs={"mask": ("left", mask)}),
    }
    first = loader(PIXEL_ART, strength_model=0.9, strength_clip=0.0, mask=("left", mask))
    second = loader(DETAIL, (LOADER, 520), "first", strength_model=1.0, strength_clip=0.0, mask=("right", mask))
    graph = unet_graph(SD15, PIXEL_PROMPT, "strata_masks", {**masks, "first": first, "second": second}, "second")
    return {**graph, "note": words}


def inspected() -> Graph:
    words = note(
        "Inspect a LoRA",
        "The picture on the node is there without a run. Point at a bar to read what it says.",
        "Each LoRA shows the rank that it needs and the blocks that carry it; two or more, how they get along.",
        "**x ... restores it** multiplies the strengths of the loaders; with one LoRA, **keeps 99 %** makes a Save LoRA node.",
        "A run also holds the LoRAs against the model, and saves the picture.",
        height=160,
    )
    first = Node("StrataLoraLoader", (LOADER, TOP), (360, 0), {"lora_name": PIXEL_ART.name}, model=PIXEL_ART)
    second = Node(
        "StrataLoraLoader",
        (LOADER, 560),
        (360, 0),
        {"lora_name": DETAIL.name},
        {"lora_stack": ("first", "LORA_STACK")},
        model=DETAIL,
    )
    wires = {
        "lora_stack": ("second", "LORA_STACK"),
        "model": ("checkpoint", "MODEL"),
        "clip": ("checkpoint", "CLIP"),
    }
    save = Node(
        "SaveImage", (1380, TOP), (460, 520), {"filename_prefix": "strata_inspect"}, {"images": ("look", "IMAGE")}
    )
    return {
        "checkpoint": checkpoint(SD15),
        "first": first,
        "second": second,
        "look": Node("StrataLoraInspect", (PROMPT, TOP), (520, 640), {}, wires),
        "save": save,
        "note": words,
    }


def stacked() -> Graph:
    words = note(
        "Many LoRAs in one node",
        "Each row is a LoRA: its switch, its strength (drag, or double-click and type), its block weights and its strength over time.",
        "**Add a LoRA** opens the picker; a right click on the node makes rows of other packs' nodes and of chains of loaders.",
        "The rows are a text. What is off, notes and headings sample nothing again.",
    )
    rows = (
        f"# Style\n<lora:{_stem(PIXEL_ART)}:0.9>\n# Finish\n<lora:{_stem(DETAIL)}:0.6:0.3> // more of it is harsh\n"
        f"off <lora:{_stem(DETAIL)}:-0.6> // smooth instead"
    )
    wires = {"model": ("checkpoint", "MODEL"), "clip": ("checkpoint", "CLIP")}
    stack = Node(
        "StrataLoraStack", (LOADER, TOP), (400, 0), {"rows": rows}, wires, model=PIXEL_ART, more_models=(DETAIL,)
    )
    graph = unet_graph(SD15, PIXEL_PROMPT, "strata_stack", {"stack": stack}, "stack")
    return {**_shifted(graph, 60, keep=("checkpoint", "stack")), "note": words}


def _stem(model: Model) -> str:
    return model.name.removesuffix(".safetensors")


def without_download() -> Graph:
    words = note(
        "Try it without any download",
        "This FLUX has 7 million parameters and knows 113 drawings. Its files come with the source of Strata: "
        "`python3 dev.py toy` puts them into your models folder, `python3 dev.py serve` starts a ComfyUI that has them.",
        "Move **strength_model** and queue again: 0 is the fox alone, 1 is the style as it was trained.",
        "Try *owl* or *castle* as the prompt, and the LoRAs blueprint, moonlight and robot. This one knows French: *renard*.",
        height=150,
    )
    lora = Node(
        "StrataLoraLoader",
        (LOADER, TOP),
        (360, 0),
        {"lora_name": f"{TOY}_picture_book.safetensors", "strength_model": 0.8, "strength_clip": 0.8},
        {"model": ("unet", "MODEL"), "clip": ("clip", "CLIP")},
    )
    zero = Node("ConditioningZeroOut", (PROMPT, 350), (420, 0), inputs={"conditioning": ("positive", "CONDITIONING")})
    return {
        "unet": Node("UNETLoader", (LEFT, TOP), values={"unet_name": f"{TOY}_flux.safetensors"}),
        "clip": Node("CLIPLoader", (LEFT, 290), values={"clip_name": f"{TOY}_clip.safetensors"}),
        "vae": Node("VAELoader", (LEFT, 490), values={"vae_name": f"{TOY}_vae.safetensors"}),
        "lora": lora,
        "positive": text("fox", TOP, "lora", "Prompt", GREEN),
        "negative": zero,
        **picture(
            "EmptySD3LatentImage", 128, "positive", "negative", "lora", "strata_toy", "vae",
            steps=12, cfg=1.0, scheduler="simple",
        ),
        "note": words,
    }  # fmt: skip


def swept() -> Graph:
    words = note(
        "Find the right strength",
        "Run: the grid grows, and each picture is saved at once. Stopped, it goes on later. Click one to see it large.",
        "**x_values** as in A1111: 0.4, 0.8 or 0-1(+0.2) or 0-1[6]. Other axes: epochs, a block left out, seeds, prompts ...",
        "The difference maps share one scale; the curve says where it begins to grow less.",
        "It draws with Strata's toy: `python3 dev.py serve` has it. Or load your own model.",
        height=160,
    )
    values = {
        "lora_name": f"{TOY}_picture_book.safetensors",
        "x_values": "0-1.2(+0.2)",
        "y_axis": "prompt",
        "y_values": "fox, castle, owl",
        "positive": "fox",
        "steps": 12,
        "cfg": 1.0,
        "filename_prefix": "sweep/strata_toy",
    }
    wires = {
        "model": ("unet", "MODEL"),
        "clip": ("clip", "CLIP"),
        "vae": ("vae", "VAE"),
        "latent_image": ("latent", "LATENT"),
    }
    shown = {
        name: Node("PreviewImage", (1060, top), (520, 340), inputs={"images": ("sweep", name)}, title=title)
        for name, top, title in (
            ("differences", TOP, "Differences, one scale"),
            ("curve", 520, "Difference over strength"),
        )
    }
    return {
        "unet": Node("UNETLoader", (LEFT, TOP), values={"unet_name": f"{TOY}_flux.safetensors"}),
        "clip": Node("CLIPLoader", (LEFT, 290), values={"clip_name": f"{TOY}_clip.safetensors"}),
        "vae": Node("VAELoader", (LEFT, 490), values={"vae_name": f"{TOY}_vae.safetensors"}),
        "latent": Node("EmptySD3LatentImage", (LEFT, 620), values={"width": 128, "height": 128, "batch_size": 1}),
        "sweep": Node("StrataSweep", (LOADER, TOP), (600, 0), values, wires),
        **shown,
        "note": words,
    }


def _save(at: tuple[int, int], stack: str, prefix: str, source: str | None = None, **values: Any) -> Graph:
    """A Save LoRA, and what it reports. source: the node that gives the plain MODEL and CLIP."""
    inputs = {"lora_stack": (stack, "LORA_STACK")}
    if source:
        inputs |= {"model": (source, "MODEL"), "clip": (source, "CLIP")}
    return {
        "save": Node("StrataLoraSave", at, (400, 0), {"filename_prefix": prefix, **values}, inputs),
        "report": Node("PreviewAny", (at[0] + 460, at[1]), (520, 420), inputs={"source": ("save", "report")}),
    }


def _in_stack(model: Model, at: tuple[int, int], strength: float, **inputs: tuple[str, str]) -> Node:
    """A LoRA Loader that only puts its LoRA into a stack."""
    values = {"lora_name": model.name, "strength_model": strength, "strength_clip": strength}
    return Node("StrataLoraLoader", at, (360, 0), values, inputs, model=model)


def bake_blocks() -> Graph:
    words = note(
        "Bake block weights into a file",
        "The desk sets how strongly the LoRA acts in each block of the model.",
        "**Save LoRA** writes that into a new file in *output/loras*: any program that reads LoRAs then has it at strength 1.",
        "MODEL and CLIP go from the checkpoint straight to **Save LoRA**: it needs them without the LoRA.",
    )
    desk = Node(
        "StrataLoraBlockWeights",
        (LEFT, 290),
        (430, 0),
        {"weights": "IN*=0.2, M0=0.2, OUT3-5=0.6, OUT6-11=1, TE=0.8, default=1"},
    )
    lora = _in_stack(PIXEL_ART, (510, TOP), 1.0, block_weights=("desk", "BLOCK_WEIGHTS"))
    return {
        "checkpoint": checkpoint(SD15),
        "desk": desk,
        "lora": lora,
        **_save((910, TOP), "lora", "strata_baked", "checkpoint"),
        "note": words,
    }


def merge_two() -> Graph:
    words = note(
        "Merge two LoRAs",
        "Each loader puts its LoRA, at its strengths, into the **LORA_STACK**. Nothing else needs to be connected to them.",
        "**method** *sum* is exactly what applying both does. *slerp* and *orthogonalize* keep them from adding up too far.",
        "**shrink** *rank* keeps the file small; the report says what that costs.",
    )
    return {
        "first": _in_stack(PIXEL_ART, (LEFT, TOP), 0.8),
        "second": _in_stack(DETAIL, (LEFT, 520), 0.5, lora_stack=("first", "LORA_STACK")),
        **_save((460, TOP), "second", "strata_merged", shrink="rank", amount=32.0),
        "note": words,
    }


def shrink_one() -> Graph:
    words = note(
        "Shrink a LoRA",
        "**shrink** says what to keep: a rank, a share of the energy, an error, or the best that fits into so many MB.",
        "*size*, *energy* and *error* choose over all layers at once: those that change much keep more.",
        "Read the error in the report, and compare pictures of both at the same seed. The old file stays as it is.",
    )
    return {
        "lora": _in_stack(PIXEL_ART, (LEFT, TOP), 1.0),
        **_save((460, TOP), "lora", "strata_small", shrink="energy", amount=99.0),
        "note": words,
    }


def _shifted(graph: Graph, right: int, keep: tuple[str, ...]) -> Graph:
    return {
        key: node if key in keep else replace(node, at=(node.at[0] + right, node.at[1])) for key, node in graph.items()
    }


# File name, which is the title in ComfyUI's list of templates -> graph.
GRAPHS: dict[str, Graph] = {
    "Try it without any download": without_download(),
    "LoRA on SD1.5": on_sd15(),
    "LoRA on SDXL": on_sdxl(),
    "LoRA on FLUX": on_flux(),
    "Block weights": block_weights(),
    "Live strength": live(),
    "Strength over time": over_time(),
    "Speed LoRA on the first steps": speed_first(),
    "A pair of LoRAs for Wan 2.2": wan_pair(),
    "Two LoRAs by mask": by_mask(),
    "Bake block weights into a file": bake_blocks(),
    "Merge two LoRAs": merge_two(),
    "Shrink a LoRA": shrink_one(),
    "Many LoRAs in a stack": stacked(),
    "Inspect a LoRA": inspected(),
    "Find the right strength": swept(),
}
