"""The inputs that saving nodes share, and what they come to."""

from __future__ import annotations

import base64
import io as bytes_io
from datetime import datetime
from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...lora_math.choices import KINDS, LAYOUTS, TYPES
from ...lora_math.errors import StrataError
from .. import inputs
from ..comfy.saving import FOLDERS

if TYPE_CHECKING:
    from ...lora_math.algebra.budget import Budget

# Bytes of a file for its metadata, besides what the tags of the parents take.
HEADER = 6000
AMOUNT = 32.0
# Pixels of a thumbnail's longer side.
PICTURE = 256


def shrink_inputs(default: str = "exact", amount: float = AMOUNT) -> list[io.Input]:
    return [
        io.Combo.Input(
            "shrink",
            options=list(KINDS),
            default=default,
            tooltip="exact: nothing is lost. The others keep what matters most: rank: at most 'amount' in each layer; energy: 'amount' "
            "percent of the whole change; error: at most 'amount' percent of error; size: the best that fits into 'amount' MB.",
        ),
        io.Float.Input(
            "amount",
            default=amount,
            min=0.0,
            max=100_000.0,
            step=0.5,
            tooltip="For shrink: a rank, percent of energy, percent of error, or MB. Without effect for exact.",
        ),
    ]


def file_inputs(prefix: str) -> list[io.Input]:
    return [
        io.String.Input(
            "filename_prefix",
            default=prefix,
            tooltip="The file's name; a number is put behind it, so nothing is ever written over. It may have folders before it.",
        ),
        io.Combo.Input(
            "folder",
            options=list(FOLDERS),
            default=FOLDERS[0],
            optional=True,
            advanced=True,
            tooltip="output/loras: ComfyUI's output folder, from which loaders take LoRAs too. models/loras: your LoRA folder.",
        ),
        io.Combo.Input(
            "precision",
            options=list(TYPES),
            default="fp16",
            optional=True,
            advanced=True,
            tooltip="The type of the stored numbers. fp16 loses about 0.03 %, bf16 0.2 %; fp32 takes twice the space.",
        ),
        io.Combo.Input(
            "layout",
            options=list(LAYOUTS),
            default=LAYOUTS[0],
            optional=True,
            advanced=True,
            tooltip="How the file names its layers. best: what most programs read for this model; as source: as the first LoRA does; "
            "comfyui, kohya, diffusers: always so.",
        ),
    ]


def result_outputs() -> list[io.Output]:
    return [
        io.String.Output("lora_name", tooltip="The saved file's name, as LoRA loaders take it at once."),
        io.LoraModel.Output("LORA_MODEL", tooltip="The saved LoRA itself, for nodes that take a LORA_MODEL."),
        io.String.Output(
            "report", tooltip="Where it is, how large, its rank and error in total and by block, what was left out."
        ),
    ]


def place_of(folder, filename_prefix) -> tuple[str, str]:
    """The two as they arrived, checked."""
    prefix = inputs.filled(filename_prefix, "filename_prefix", "Write a name for the file.")
    return inputs.choice(folder, "folder", FOLDERS), prefix


def budget_of(shrink, amount, said: int = 0) -> Budget:
    """said: bytes of metadata beyond the usual. Raises StrataError for an amount that means nothing."""
    # With what saves, not with ComfyUI's start.
    from ...lora_math.algebra.budget import Budget

    if amount is None:
        raise StrataError("amount is missing (null). Write a number; for exact it has no effect.")
    shrink, amount = inputs.choice(shrink, "shrink", KINDS), inputs.number(amount, "amount", AMOUNT)
    if shrink == "exact":
        return Budget()
    if shrink == "size":
        return Budget("size", amount * 1e6, HEADER + said)
    return Budget(shrink, amount / 100 if shrink in ("energy", "error") else amount)


def thumbnail_of(image) -> str | None:
    """A data URL of the first picture of an IMAGE [batch, height, width, channels], small enough for a header. Raises StrataError."""
    if image is None:
        return None
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.numel() or image.shape[-1] not in (1, 3, 4):
        raise StrataError("thumbnail is not an IMAGE with a picture in it. Connect a node that gives one, or nothing.")
    from PIL import Image

    pixels = (image[0].float().nan_to_num().clamp(0, 1) * 255).round().byte().cpu().numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])
    picture.thumbnail((PICTURE, PICTURE))
    packed = bytes_io.BytesIO()
    picture.save(packed, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
