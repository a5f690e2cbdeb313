"""Masks over pictures, and models whose LoRAs act under them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from strata.nodes.comfy.live import LiveLora, attach
from strata.tests.nodes.helpers import adapter_makers, sampling


def left(height=8, width=8, batch=1) -> torch.Tensor:
    """A mask that is 1 at the left and falls softly towards the right."""
    row = torch.linspace(1.5, -0.5, width).clamp(0, 1)
    return row.expand(batch, height, width).clone()


def with_masks(model, masked: list, on_text: bool = False):
    clone = model.clone()
    for number, (changes, mask) in enumerate(masked):
        attach(clone, LiveLora(changes, f"{number}", file=f"{number}.safetensors", mask=mask, on_text=on_text))
    return clone


def models() -> Iterator:
    """For a fixture: by family, a small model, a LoRA and a LoHa on all of its layers."""
    makers = adapter_makers.lora, adapter_makers.MAKERS["LoHa"]
    yield from sampling.each_once(
        lambda model, _: (
            model,
            *(adapter_makers.scaled(adapter_makers.everywhere(model, maker), 6.0) for maker in makers),
        )
    )
