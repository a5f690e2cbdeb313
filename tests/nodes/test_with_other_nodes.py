"""Beside every node of ComfyUI's own that takes a model and gives one, before it and after it: what ComfyUI's LoRA loader makes there."""

from __future__ import annotations

import asyncio

import comfy.sd
import pytest
import torch

import nodes
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import lora_makers, sampling

# Merging takes ComfyUI minutes for some, and compiling too; both have tests of their own (test_fused, test_live_safety).
ELSEWHERE = ("ModelMerge", "TorchCompile")
PARTS = 6
NUMBERS = {"INT": 1, "FLOAT": 1.0, "BOOLEAN": True, "STRING": ""}


@pytest.fixture(scope="module")
def others() -> list[str]:
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    return [name for name, kind in sorted(nodes.NODE_CLASS_MAPPINGS.items()) if takes_and_gives_a_model(name, kind)]


def takes_and_gives_a_model(name: str, kind: type) -> bool:
    if name.startswith(ELSEWHERE) or "lora" in name.lower() or "MODEL" not in kind.RETURN_TYPES:
        return False
    required = kind.INPUT_TYPES().get("required", {})
    types = [kind for kind, *_ in required.values()]
    return "MODEL" in types and all(isinstance(t, list) or t in {"MODEL", "COMBO", *NUMBERS} for t in types)


def through(name: str, model):
    """The node's model, its widgets as they are when it is put down."""
    kind = nodes.NODE_CLASS_MAPPINGS[name]
    values = {}
    for key, (of, *options) in kind.INPUT_TYPES()["required"].items():
        options = options[0] if options else {}
        choices = of if isinstance(of, list) else options.get("options") or [None]
        values[key] = model if of == "MODEL" else options.get("default", NUMBERS.get(of, choices[0]))
    result = getattr(kind if hasattr(kind, "define_schema") else kind(), kind.FUNCTION)(**values)
    return getattr(result, "result", result)[kind.RETURN_TYPES.index("MODEL")]


def tried(run):
    try:
        latent = run()
    except Exception:
        return None
    return latent if latent.isfinite().all() else None


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("family", ["SD1.5", "FLUX.1"])
def test_a_lora_does_there_what_comfyuis_does(others, lora_folder, family, part):
    model = sampling.MODELS[family]()
    tensors = lora_makers.full_lora(model, alpha=8.0, dtype=torch.float32)
    file = lora_folder.save("a.safetensors", tensors)
    run = lambda m: sampling.sample(m, family)  # noqa: E731
    core = lambda m: comfy.sd.load_lora_for_models(m, None, tensors, 1.0, 0.0)[0]  # noqa: E731
    ours = lambda m, apply: StrataLoraLoader.execute(file, 1.0, 0.0, model=m, apply=apply).result[0]  # noqa: E731
    base, wrong, compared = run(model), {}, 0
    for name in others[part::PARTS]:
        plain = tried(lambda name=name: run(through(name, model)))
        if plain is None:
            continue  # not for this family, or not with these widgets
        expected = {"before": run(through(name, core(model))), "after": run(core(through(name, model)))}
        compared += 1
        for apply in ("patch", "live"):
            found = {"before": through(name, ours(model, apply)), "after": ours(through(name, model), apply)}
            for place, latent in expected.items():
                distance = sampling.distance(run(found[place]), latent, latent - plain)
                if not distance < 1e-4:
                    wrong[f"{name}, {apply} {place} it"] = distance
    assert not wrong
    assert compared >= 5
    assert torch.equal(run(model), base)
