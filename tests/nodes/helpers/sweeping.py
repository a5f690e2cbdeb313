"""The sweep node run as ComfyUI runs it, on the shipped toy FLUX."""

import numpy
import torch
from PIL import Image

from strata.nodes.lora_sweep import StrataSweep

INK, BLUE = "strata_toy_picture_book.safetensors", "strata_toy_blueprint.safetensors"
STEPS = 2


def latent(count=1):
    return {"samples": torch.zeros(count, 16, 8, 8)}


PROMPT = {
    "1": {"class_type": "Toy", "inputs": {"name": "toy"}},
    "9": {"class_type": "StrataSweep", "inputs": {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}},
}


def as_run(prompt=PROMPT):
    """The node's class as ComfyUI runs it."""
    hidden = type("Hidden", (), {"prompt": prompt, "unique_id": "9", "extra_pnginfo": {"workflow": {"nodes": [1]}}})
    return type("StrataSweep", (StrataSweep,), {"hidden": hidden})


def swept(studio, prompt=PROMPT, **given):
    wired = {"model": studio.model, "clip": studio.clip} if "guider" not in given else {}
    settings = {
        "lora_name": INK,
        "positive": "fox, picture book",
        "seed": 3,
        "steps": STEPS,
        "cfg": 1.0,
        "apply": "patch",
    }
    settings.update({"vae": studio.vae, "latent_image": latent(), "filename_prefix": "s/x", **wired}, **given)
    return as_run(prompt).execute(**settings)


def told(output):
    return output.ui["strata_sweep"][0]


def cells_of(output, out):
    return [
        numpy.stack([numpy.asarray(Image.open(out / file["subfolder"] / file["filename"])) for file in cell["files"]])
        for cell in told(output)["cells"]
    ]
