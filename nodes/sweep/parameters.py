"""A picture's settings as A1111 writes them: the text that galleries and LoRA managers read."""

from __future__ import annotations

from .plan import Settings


def parameters(
    settings: Settings, loras: str, sampler: str, scheduler: str, denoise: float, size: tuple[int, int], model: str
) -> str:
    """loras: as tags. size: (width, height). model: its file, without folder and ending; empty where that is not known."""
    positive = " ".join(filter(None, (settings.positive.strip(), loras)))
    told = [
        ("Steps", settings.steps),
        ("Sampler", sampler),
        ("Schedule type", scheduler),
        ("CFG scale", f"{settings.cfg:g}"),
        ("Seed", settings.seed),
        ("Size", f"{size[0]}x{size[1]}"),
        *([("Model", _quoted(model))] if model else []),
        *([("Denoising strength", f"{denoise:g}")] if denoise != 1 else []),
        ("Version", "ComfyUI"),
    ]
    lines = [positive]
    if settings.negative.strip():
        lines.append(f"Negative prompt: {settings.negative.strip()}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in told)])


def _quoted(text: str) -> str:
    """A1111 puts what holds its own separators into quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(letter in text for letter in ',:"\n') else text
