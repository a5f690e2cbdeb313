"""Which of the names that ComfyUI knows a weight by a file should use, so that the most programs read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .. import families
from ..adapters.stored import KOHYA, PEFT
from ..choices import AS_SOURCE, BEST, COMFYUI, DIFFUSERS, KOHYA_NAMES
from ..names import plain


@dataclass(frozen=True)
class Naming:
    """layout: never BEST or AS_SOURCE any more; family: of the model."""

    layout: str
    family: str | None

    @property
    def style(self) -> str:
        """How the tensors of a layer are spelled."""
        return KOHYA if self.layout == KOHYA_NAMES else PEFT

    def module(self, weight: str, known: Iterable[str], encoders: int = 0) -> str:
        """The name in the file for a weight that ComfyUI knows by ``known``.

        weight: state-dict key without ".weight"; encoders: of how many text encoders it is one, 0 for the diffusion model.
        """
        known = list(known)
        if encoders:
            return self._of_encoder(weight, known, encoders)
        if self.layout == KOHYA_NAMES:
            own = f"lora_unet_{plain(weight.removeprefix('diffusion_model.'))}"
            others = [name for name in known if name.startswith("lora_unet_") and name != own]
            row = families.FAMILIES.get(self.family)
            return others[0] if others and row is not None and row.kohya_bodies == DIFFUSERS else own
        if self.layout == DIFFUSERS:
            return next(filter(self.is_diffusers, known), weight)
        return weight

    def is_diffusers(self, name: str) -> bool:
        """Whether diffusers calls a layer of this family so. ComfyUI knows the layers of FLUX.1 by names of FLUX.2 too."""
        foreign = self.family != families.FLUX2 and name.endswith("attn.to_qkv_mlp_proj")
        return name.startswith(("transformer.", "unet.")) and not foreign

    def spelled(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A file's tensors as this layout's readers know them.

        UNets have two spellings in diffusers, and ComfyUI reads the older one: attention processors and ``.lora.up``.
        """
        if self.layout != DIFFUSERS:
            return dict(tensors)
        found = {}
        for key, tensor in tensors.items():
            if key.startswith("unet."):
                dot = "_" if ".processor.to_" in key else "."
                for old, new in ((".lora_A.weight", "lora.down.weight"), (".lora_B.weight", "lora.up.weight")):
                    if key.endswith(old):
                        key = f"{key.removesuffix(old)}{dot}{new}"
            found[key] = tensor
        return found

    def _of_encoder(self, weight: str, known: list[str], encoders: int) -> str:
        if self.layout == KOHYA_NAMES:
            numbered = [name for name in known if name.startswith("lora_te") and name[7:8].isdigit()]
            plain_names = [name for name in known if name.startswith("lora_te_")]
            found = (numbered or plain_names) if encoders > 1 else (plain_names or numbered)
            if found:
                return found[0]
        if self.layout == DIFFUSERS:
            own = (name for name in known if name.startswith(("text_encoder.", "text_encoder_")))
            return next(own, f"text_encoders.{weight}")
        return f"text_encoders.{weight}"


def naming(layout: str, family: str | None, source: Mapping[str, object] | None = None) -> Naming:
    """layout: one of LAYOUTS; source: the keys of the first file that goes in, for "as source"."""
    if layout == AS_SOURCE and source:
        layout = _of(source)
    elif layout in (BEST, AS_SOURCE):
        layout = families.FAMILIES[family].saved_as if family in families.FAMILIES else COMFYUI
    return Naming(layout, family)


def _of(keys: Iterable[str]) -> str:
    for key in keys:
        if key.startswith(("lora_unet_", "lora_te")):
            return KOHYA_NAMES
        if key.startswith(("transformer.", "unet.", "text_encoder")):
            return DIFFUSERS
    return COMFYUI
