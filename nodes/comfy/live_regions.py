"""Where in the picture each live LoRA acts: masks, handed through ComfyUI's conditionings and laid onto what every layer computes.

Text tokens, padding, and layers that compute one vector for the whole picture (time, modulation) have no place: there a LoRA acts by the
share of the picture that its mask covers. So a white mask is none, a black one no LoRA, and masks that add up to white are one LoRA. By
choice text is changed fully instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...lora_math.errors import StrataError
from ...lora_math.regions import Region
from .internals import need

# How arguments of a call of the model begin that are ours, by ComfyUI's conditionings.
ARGUMENT = "strata_regions"
# Layers of text streams, as ComfyUI's models name them; FLUX's and Z-Image's joint layers hold text too, in front of the picture.
_TEXT = re.compile(
    r"(?:^|\.)(?:txt_\w+|text_\w+|context_\w+|cap_embedder|img_emb|add_[qkv]_proj|to_add_out|y_embedder)(?:\.|$)"
    r"|\.attn2\.to_[kv]$|\.cross_attn\.[kv]"
)
# Single_blocks: text, then the picture, then reference pictures.
_TEXT_FIRST = frozenset({"flux", "flux2", "chroma"})
# Layers and final_layer: padded text, then the padded picture.
_PADDED = frozenset({"lumina2"})
_JOINT = re.compile(r"(?:^|diffusion_model\.)(?:layers|final_layer)\.")
_REFERENCES_BEHIND = frozenset({*_TEXT_FIRST, "qwen_image"})
# How far a mask may be beyond 0 to 1: half of what 8 bits tell apart.
ROUNDING = 0.5 / 255
# Of a U-Net, each half as large as the one before.
_LEVELS = 8


@dataclass(frozen=True, eq=False)
class Where:
    """pictures [batch, height, width]: a LoRA acts where they are 1; on_text: and fully on text."""

    pictures: Tensor
    on_text: bool = False


def where_of(value) -> Where | None:
    """What a stack's entry has for its mask: None for everywhere, a MASK, or a row's choice made of one. Raises StrataError for anything
    else."""
    if isinstance(value, Where):
        return value
    if isinstance(value, Region):
        raise StrataError(
            f"mask={value} chooses a mask, and none is here: connect one to the masks input of LoRA Stack (Strata), or take the word away."
        )
    pictures = read_mask(value)
    return None if pictures is None else Where(pictures)


def chosen(region: Region, masks: Tensor | None) -> Where:
    """What a row's word means. masks: [count, height, width], None where none are connected. Raises StrataError where there is no such
    mask."""
    if masks is None:
        raise StrataError(
            f"mask={region} chooses a mask, and nothing is connected to masks. Connect a MASK, or take the word away."
        )
    if region.number > len(masks):
        have = "1 picture" if len(masks) == 1 else f"{len(masks)} pictures"
        raise StrataError(
            f"mask={region} chooses mask {region.number}, and masks has {have}. Batch Masks puts several together."
        )
    picture = masks[region.number - 1 : region.number]
    return Where(1 - picture if region.inverted else picture, region.on_text)


def hand_over(
    conds: Mapping[str, Sequence[dict]], noise_shape: Sequence[int], masks: Sequence[Tensor | None], argument: str
) -> None:
    """Puts the masks among the conditionings of a run, one picture for each LoRA, in the size of the latent: ComfyUI then cuts them to
    areas, repeats and splits them with the batch, and hands them to each call of the model as ``argument``.

    Raises StrataError for what is neither a picture nor a video.
    """
    if len(noise_shape) not in (4, 5):
        raise StrataError(
            "A LoRA's mask needs a picture or a video to lie on, which this model does not make. Take the mask away."
        )
    kind = need("comfy.conds", "CONDNoiseShape", "A LoRA's mask")
    # Each mask goes round the batch by its own count.
    size, samples = tuple(noise_shape[-2:]), max(1, noise_shape[0])
    whole = torch.ones(samples, len(masks), *size)
    for group, mask in enumerate(masks):
        if mask is not None:
            repeated = mask[torch.arange(samples) % len(mask)]
            whole[:, group] = resized(repeated[:, None].float(), size)[:, 0]
    if len(noise_shape) == 5:
        whole = whole[:, :, None].expand(-1, -1, noise_shape[2], -1, -1)
    for side in conds.values():
        for cond in side or ():
            cond["model_conds"] = {**cond.get("model_conds", {}), argument: kind(whole)}


def read_mask(value, name: str = "mask") -> Tensor | None:
    """[batch, height, width] of what came as a MASK, None for everywhere. Raises StrataError for anything else, with the input's name."""
    if value is None:
        return None
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
        kind = "without numbers (meta)" if value.is_meta else "stored sparsely"
        raise StrataError(f"{name} is a tensor {kind}, which is no MASK: connect a mask of a picture.")
    if not isinstance(value, Tensor) or value.ndim not in (2, 3) or not value.numel() or value.is_complex():
        shown = f"of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise StrataError(
            f"{name} is {shown}, which is no MASK: connect a mask of a picture, such as 'Load Image (as Mask)' gives."
        )
    mask = value.detach().float().cpu()
    # What was blurred or resized is rounded.
    if not bool(((mask >= -ROUNDING) & (mask <= 1 + ROUNDING)).all()):
        raise StrataError(
            f"{name} holds numbers outside 0 to 1. Where it is 1 the LoRA acts fully, where it is 0 not at all."
        )
    mask = mask.clamp(0, 1)
    return mask if mask.ndim == 3 else mask[None]


def unused(mask: Tensor, noise_shape: Sequence[int]) -> str:
    """What of a mask's pictures has no place in a run, for people to read; empty where all are used."""
    count = noise_shape[0]
    if len(mask) <= count:
        return ""
    is_video = len(noise_shape) == 5 and noise_shape[2] > 1
    what = f"{count} video{'s'[: count > 1]}" if is_video else f"{count} picture{'s'[: count > 1]}"
    frames = ", for all of its frames" if is_video else ""
    return f"the mask has {len(mask)} pictures, this batch {what}: one is for each{frames}; {len(mask) - count} are not used"


def resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """[batch, n, height, width] in another size: what lies under a place is averaged."""
    if tuple(masks.shape[-2:]) == size:
        return masks
    return torch.nn.functional.interpolate(masks, size, mode="bilinear", antialias=True)


def taken_out(kwargs: Mapping) -> tuple[dict, dict[str, Tensor]]:
    """(the arguments of a call as the model knows them, ours)."""
    ours = {name: value for name, value in kwargs.items() if name.startswith(ARGUMENT)}
    return {name: value for name, value in kwargs.items() if name not in ours}, ours


class Regions:
    """The masks in one call of a model."""

    def __init__(self, masks: Tensor, model, arguments: Mapping, on_text: Sequence[bool] = ()):
        """masks: [batch, LoRAs, (frames,) height, width] of the latent; arguments: of the call; on_text: of each LoRA, whether it acts
        fully on text."""
        self.masks = (masks[:, :, 0] if masks.ndim == 5 else masks).float()
        self.frames = masks.shape[2] if masks.ndim == 5 else 1
        config = model.model_config.unet_config
        self.kind = config.get("image_model")
        patch = getattr(model.diffusion_model, "patch_size", None)
        self.patch = patch[-1] if isinstance(patch, (tuple, list)) else patch
        self.multiple = getattr(model.diffusion_model, "pad_tokens_multiple", None) or 1
        context = arguments.get("context")
        self.text = context.shape[1] if isinstance(context, Tensor) and context.ndim == 3 else 0
        self.has_references = bool(arguments.get("ref_latents"))
        height, width = self.masks.shape[-2:]
        sizes = [self.patch] if isinstance(self.patch, int) else [2**level for level in range(_LEVELS)]
        self.grids = [(-(-height // size), -(-width // size)) for size in sizes]
        # [LoRAs, batch].
        self.shares = self.masks.mean((-2, -1)).T
        self.text_shares = self.shares
        if any(on_text):
            self.text_shares = torch.where(torch.tensor(on_text, device=masks.device)[:, None], 1.0, self.shares)
        self._known: dict[tuple, Tensor] = {}
        # Layers whose places are not known.
        self.unplaced: set[str] = set()

    def of(self, path: str, y: Tensor, is_conv: bool) -> Tensor | None:
        """[LoRAs, batch, *places] for what a layer computes, or of the batch's samples only; None where not even those are known."""
        if len(y) % len(self.masks):
            self.unplaced.add(path)
            return None
        found, is_text = None, _TEXT.search(path) is not None
        if y.ndim > 2 and not is_text and (is_conv or y.shape[1] > 1 or (1, 1) in self.grids):
            if is_conv and y.ndim in (4, 5):
                found = self._on_space(y.shape[2:])
            elif not is_conv and y.ndim == 3:
                found = self._on_tokens(path, y.shape[1])
            if found is None:
                self.unplaced.add(path)
        if found is None:
            # One vector is the modulation of all text.
            shares = self.text_shares if is_text and y.ndim > 2 and y.shape[1] > 1 else self.shares
            found = shares.reshape(*shares.shape, *[1] * (y.ndim - 2))
        return found if found.shape[1] == len(y) else found.repeat_interleave(len(y) // found.shape[1], 1)

    def _on_space(self, space: Sequence[int]) -> Tensor:
        """For a convolution."""
        key = "space", tuple(space)
        if key not in self._known:
            found = resized(self.masks, tuple(space[-2:])).movedim(1, 0)
            self._known[key] = found if len(space) == 2 else found[:, :, None].expand(-1, -1, space[0], -1, -1)
        return self._known[key]

    def _on_tokens(self, path: str, count: int) -> Tensor | None:
        for grid in self.grids:
            places = self.frames * grid[0] * grid[1]
            start = self._start(path, count, places)
            if start is not None:
                return self._tokens(grid, start, count)
        return None

    def _start(self, path: str, count: int, places: int) -> int | None:
        """Where the picture's tokens begin among so many, None where this is not known."""
        padded = places + -places % self.multiple
        if self.kind in _TEXT_FIRST and "single_blocks." in path:
            return self.text if count >= self.text + places else None
        if self.kind in _PADDED and not self.has_references and _JOINT.search(path):
            return count - padded if count >= padded else None
        if count == places or (self.kind in _PADDED and count == padded):
            return 0
        return 0 if self.kind in _REFERENCES_BEHIND and self.has_references and count > places else None

    def _tokens(self, grid: tuple[int, int], start: int, count: int) -> Tensor:
        key = "tokens", grid, start, count
        if key not in self._known:
            picture = resized(self.masks, grid).flatten(2).repeat(1, 1, self.frames).movedim(1, 0)
            if picture.shape[-1] != count:
                whole = self.shares[..., None].repeat(1, 1, count)
                # What stands in front of the picture is text.
                whole[..., :start] = self.text_shares[..., None]
                whole[..., start : start + picture.shape[-1]] = picture
                picture = whole
            self._known[key] = picture
        return self._known[key]
