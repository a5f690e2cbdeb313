"""A picture's settings as A1111 writes them: the text that galleries and LoRA managers read."""

from __future__ import annotations

from ...lora_math.tags import without_tags
from ..comfy.drawing import Way
from .plan import Settings


def parameters(settings: Settings, loras: str, way: Way, own_cfg: bool, size: tuple[int, int], model: str) -> str:
    """loras: as tags. own_cfg: whether the guider's own cfg counted. size: (width, height). model: its file, without folder and ending;
    empty where that is not known. What came over a wire, and is not known by name, is left out: prompts and cfg of a guider, the name of
    a sampler, the schedule behind sigmas. So are tags that somebody typed into a prompt: they act nowhere in a sweep."""
    has_prompts = way.guider is None
    positive = " ".join(filter(None, (without_tags(settings.positive).strip() if has_prompts else "", loras)))
    negative = without_tags(settings.negative).strip() if has_prompts else ""
    plain = way.sigmas is None
    told = [
        ("Steps", settings.steps if plain else max(1, len(way.sigmas) - 1)),
        *([("Sampler", way.sampler_name)] if way.sampler is None else []),
        *([("Schedule type", way.scheduler)] if plain else []),
        *([("CFG scale", f"{settings.cfg:g}")] if not own_cfg else []),
        ("Seed", settings.seed),
        ("Size", f"{size[0]}x{size[1]}"),
        *([("Model", _quoted(model))] if model else []),
        *([("Denoising strength", f"{way.denoise:g}")] if plain and way.denoise != 1 else []),
        ("Version", "ComfyUI"),
    ]
    lines = [positive]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in told)])


def _quoted(text: str) -> str:
    """A1111 puts what holds its own separators into quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(letter in text for letter in ',:"\n') else text
