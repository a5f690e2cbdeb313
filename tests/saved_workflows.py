"""The workflows that released versions saved, and what their positional values mean, forever."""

from pathlib import Path

SAVED = sorted((Path(__file__).parent / "workflows").glob("*/*.json"))


def name_of(path: Path) -> str:
    """``v1/one_lora.json``"""
    return f"{path.parent.name}/{path.name}"


# What a widget is in workflows that were saved before it came: as the node was without it.
ADDED = {"StrataLoraLoader": {"text_tokens": "masked"}}

# Read from the table in workflows/README.md by hand.
MEANT = {
    "v1/one_lora.json": {
        "StrataLoraLoader": {
            "lora_name": "my_lora.safetensors",
            "strength_model": 0.8,
            "strength_clip": 0.8,
            "apply": "patch",
            "on_problem": "error",
        },
    },
    "v1/block_weights_and_prompt.json": {
        "StrataLoraLoader": {
            "lora_name": "my_lora.safetensors",
            "strength_model": 0.8,
            "strength_clip": 0.6,
            "apply": "patch",
            "on_problem": "error",
            "block_weights": ["11", 0],
        },
        "StrataLoraBlockWeights": {
            "layout": "auto",
            "preset": "none",
            "weights": "IN4-8=0.5, OUT*=1, TE=0.4, default=0",
            "seed": 0,
            "invert": False,
        },
        "StrataLoraFromPrompt": {
            "text": "a lighthouse on a cliff at sunset, <lora:my_style:0.7:0.5>, warm light",
            "two_numbers": "model:clip",
            "on_problem": "error",
        },
    },
    "v2/one_lora_by_mask.json": {
        "StrataLoraLoader": {
            "lora_name": "my_lora.safetensors",
            "strength_model": 0.8,
            "strength_clip": 0.8,
            "apply": "patch",
            "on_problem": "error",
            "text_tokens": "unmasked",
            "mask": ["10", 0],
        },
    },
}
