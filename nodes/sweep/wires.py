"""What a sweep's pictures are drawn from, as it comes over wires: whether it is that, and once only."""

from __future__ import annotations

import torch

from ...lora_math.errors import StrataError

# The most pictures of one cell.
MAX_BATCH = 16


def refuse_twice(node) -> None:
    """A loader gives both a MODEL with its LoRAs and a LORA_STACK of them: here only one of the two. Raises StrataError."""
    hidden = getattr(node, "hidden", None)
    prompt, own = getattr(hidden, "prompt", None), getattr(hidden, "unique_id", None)
    wires = prompt[own].get("inputs", {}) if isinstance(prompt, dict) and isinstance(prompt.get(own), dict) else {}
    source = {name: link[0] for name, link in wires.items() if isinstance(link, list) and len(link) == 2}
    twice = [name for name in ("model", "clip") if name in source and source[name] == source.get("lora_stack")]
    if twice:
        raise StrataError(
            f"{' and '.join(twice)} and lora_stack come from the same node, so that its LoRAs would act twice. Connect "
            f"{' and '.join(twice)} from before that node."
        )


def latent(value) -> tuple[dict, int]:
    """(the latent, how many pictures it holds). Raises StrataError."""
    samples = value.get("samples") if isinstance(value, dict) else None
    if samples is None or not hasattr(samples, "shape"):
        raise StrataError("latent_image is missing: connect an Empty Latent Image, or an encoded picture.")
    is_nested = getattr(samples, "is_nested", False)
    if not is_nested and not _is_tensor(samples, 3):
        raise StrataError(
            "latent_image is no LATENT that can be drawn. Connect an Empty Latent Image, or an encoded picture."
        )
    mask, places = value.get("noise_mask"), value.get("batch_index")
    if mask is not None and not _is_tensor(mask, 2):
        raise StrataError(
            "latent_image has a noise_mask that is no mask. Connect another latent, or set its mask anew."
        )
    if places is not None and not (isinstance(places, list) and all(type(at) is int for at in places)):
        raise StrataError("latent_image has a batch_index that is no list of whole numbers. Connect another latent.")
    count = 1 if is_nested else int(samples.shape[0])
    if count > MAX_BATCH:
        raise StrataError(
            f"latent_image holds {count} pictures; each cell of a sweep draws all of them, at most {MAX_BATCH}."
        )
    return value, count


def _is_tensor(value, dimensions: int) -> bool:
    """Whether it is a tensor of numbers, with something in it, of at least so many dimensions."""
    return (
        isinstance(value, torch.Tensor) and value.dim() >= dimensions and value.numel() > 0 and not value.is_complex()
    )


def sampler(value):
    """The SAMPLER, None where none is connected. Raises StrataError."""
    if value is not None and not callable(getattr(value, "sample", None)):
        raise StrataError(
            f"sampler is a {type(value).__name__}, not a SAMPLER. Connect the output of KSampler Select or the like."
        )
    return value


def sigmas(value):
    """The SIGMAS, None where none are connected. Raises StrataError."""
    if value is not None and not (
        _is_tensor(value, 1) and value.dim() == 1 and len(value) > 1 and bool(value.isfinite().all())
    ):
        raise StrataError("sigmas holds no steps. Connect the output of a scheduler node.")
    return value
