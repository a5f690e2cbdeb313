"""Where this pack applies a file otherwise than ComfyUI 0.30's own loader does, on purpose.

Each statement about ComfyUI is pinned by ``tests/nodes/test_where_core_differs.py``, which fails when ComfyUI is mended.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...lora_math.reading.state_dict import StateDict
from ...lora_math.wording import some, spread
from ..fitting.side import Side

# By what ``Adapter.forms`` says.
_BY_FORM = {
    "OFT": "OFT turns by strength, negative the other way (ComfyUI squares the strength and ignores rescale)",
    "BOFT": "BOFT's strength counts once (in ComfyUI once more, and nothing happens where the file has no alpha)",
    "IA3": "IA3 is applied (ComfyUI does not know it)",
    "input OFT": "OFT of PEFT and OneTrainer is applied (ComfyUI does not know it)",
    "input BOFT": "BOFT of PEFT is applied (ComfyUI does not know it)",
    "TC-LoRA": "TC-LoRA runs, its rank columns as the timestep says (ComfyUI applies its factors as a plain LoRA)",
    "T-LoRA": "T-LoRA runs, with more rank columns the less noise is left (ComfyUI does not know it)",
    "sparse": "LyCORIS's sparse remainder is applied (ComfyUI does not read it)",
    "DoRA by output": "DoRA on the output axis uses the norm of the trained weight (ComfyUI: of the base weight)",
    "LoRA in Tucker form with 1 or 3 dimensions": "Tucker LoRA on 1- and 3-dimensional convolutions is applied (in ComfyUI it fails)",
    "LoKr in Tucker form": "LoKr's Tucker form is applied (in ComfyUI it has no effect)",
    "LoKr with 1 or 3 dimensions": "LoKr on 1- and 3-dimensional convolutions keeps its axes apart (ComfyUI mixes them up)",
    "LoHa stored as convolutions": "LoHa stored as convolutions is applied (in ComfyUI it stops the sampling)",
}


def differences(contents: StateDict, sides: Sequence[Side]) -> list[str]:
    """One line for each kind of difference that this file meets. sides: what is connected."""
    entries = contents.entries
    forms = dict.fromkeys(form for entry in entries for form in entry.adapter.forms())
    lines = [_BY_FORM[form] for form in forms if form in _BY_FORM]
    stored = {entry.module for entry in entries if any(key.endswith(".alpha") for key in entry.keys)}
    header = [entry.alpha for entry in entries if entry.alpha is not None and entry.module not in stored]
    if header:
        lines.append(f"alpha {spread(header)} is read from {contents.rules_from}, where ComfyUI does not look")
    if any(entry.parameter == "bias" and entry.keys[0].split(".")[-1] == "bias" for entry in entries):
        lines.append("the bias that PEFT trains beside lora_B is applied (ComfyUI does not read it)")
    known = [entry.module for entry in entries if entry.parameter == "weight" and entry.adapter.name != "sparse"]
    if len(set(known)) < len(known):
        lines.append("several changes of one layer are all applied (of these ComfyUI keeps the last)")
    aliases = [
        entry.module
        for side in sides
        if side.targets is not None
        for _, entry in side.fit.pieces
        if side.targets.knows_only_as_alias(entry.module)
    ]
    if aliases:
        lines.append(f"{len(set(aliases))} layers have names that ComfyUI ignores ({some(aliases)})")
    return lines
