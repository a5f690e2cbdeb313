"""What is done to the prompt of an example workflow before it runs on a CPU."""

from __future__ import annotations

import copy
from typing import Any

from .models import CHECKPOINT, LORAS
from .server import ROOT
from .workflow import Prompt, nodes_of

LOADER = "StrataLoraLoader"
SD15_WORKFLOW = ROOT / "example_workflows" / "LoRA on SD1.5.json"
SIZE = 128
STEPS = 6


def small(prompt: Prompt, size: int = SIZE, steps: int = STEPS) -> Prompt:
    """The same SD1.5 prompt with the untrained checkpoint and LoRAs of ``models``, of a size that a CPU can do."""
    prompt = copy.deepcopy(prompt)
    for class_type, values in {
        "CheckpointLoaderSimple": {"ckpt_name": CHECKPOINT},
        "EmptyLatentImage": {"width": size, "height": size},
        "KSampler": {"steps": steps},
    }.items():
        for node_id in nodes_of(prompt, class_type):
            prompt[node_id]["inputs"].update(values)
    for node_id, lora in zip(nodes_of(prompt, LOADER), LORAS, strict=False):
        prompt[node_id]["inputs"]["lora_name"] = lora
    return prompt


def changed(prompt: Prompt, class_type: str, **inputs: Any) -> Prompt:
    """The same prompt with these values on every node of a class."""
    prompt = copy.deepcopy(prompt)
    for node_id in nodes_of(prompt, class_type):
        prompt[node_id]["inputs"].update(inputs)
    return prompt


def without_loader(prompt: Prompt) -> Prompt:
    """The same prompt without our node: what took MODEL and CLIP from it takes them from where it got them."""
    prompt = copy.deepcopy(prompt)
    for node_id in nodes_of(prompt, LOADER):
        inputs = prompt.pop(node_id)["inputs"]
        source = {0: inputs["model"], 1: inputs["clip"]}
        for node in prompt.values():
            for name, value in node["inputs"].items():
                if isinstance(value, list) and value[0] == node_id:
                    node["inputs"][name] = source[value[1]]
    return prompt
