"""Random stacks of every algorithm on every family: what ComfyUI's own loader makes of the saved file is what the stack made."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strata.lora_math.adapters.stored import KOHYA, PEFT
from strata.lora_math.choices import LAYOUTS
from strata.lora_math.reading.state_dict import Entry
from strata.lora_math.writing.state_dict import write
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.lora_stack import StrataLoraStack
from strata.nodes.save import StrataLoraSave
from strata.nodes.stack import StackEntry
from strata.tests.nodes.helpers import adapter_makers
from strata.tests.nodes.helpers.saved_loras import assert_same, by_core, family_models

# Families of the issue that this holds for, and a part of each with layers of several kinds.
PARTS = {
    "SD1.5": "input_blocks.1.",
    "SDXL": "input_blocks.4.",
    "FLUX.1": "blocks.1.",
    "Z-Image": "layers.1.",
    "Wan 14B": "blocks.1.",
    "Qwen-Image": "transformer_blocks.1.",
}
# A file's rounding, for the change of one weight.
ROUNDING = {"fp32": 5e-6, "fp16": 2e-3, "bf16": 1.6e-2}
STYLES = {"OFT on inputs": PEFT}
BLOCKS = (None, "default=0.5", "0%-50%=0.2, default=1.3")
strengths = st.floats(-1.5, 1.5).filter(lambda s: abs(s) > 0.05)
members = st.tuples(
    st.sampled_from(sorted(adapter_makers.MAKERS)), strengths, st.sampled_from(BLOCKS), st.integers(0, 99)
)


@functools.cache
def model_of(family: str):
    return family_models()[family]()


def file_of(folder, model, family: str, algorithm: str, seed: int, at: int) -> str:
    made = adapter_makers.everywhere(model, adapter_makers.MAKERS[algorithm], seed, PARTS[family])
    entries = [Entry(key.removesuffix(".weight"), "weight", terms[0][1], ()) for key, terms in made.items()]
    written = write(entries, STYLES.get(algorithm, KOHYA))
    tensors = {key: tensor.contiguous() for key, tensor in written.tensors.items()}
    return folder.save(f"{at}_{algorithm}_{seed}.safetensors", tensors, dict(written.metadata))


@pytest.mark.parametrize("family", PARTS)
@given(
    stack=st.lists(members, min_size=1, max_size=3),
    precision=st.sampled_from(sorted(ROUNDING)),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_file_is_what_the_stack_gave(family, stack, precision, layout, lora_folder, output):
    model = model_of(family)
    entries = []
    for at, (algorithm, strength, blocks, seed) in enumerate(stack):
        name = file_of(lora_folder, model, family, algorithm, seed, at)
        entries.append(StackEntry(name, strength, 0.0, None if blocks is None else BlockSpec(blocks)))
    ours = StrataLoraStack.execute("", model=model, lora_stack=entries).result[0]
    given = {"method": "sum", "shrink": "exact", "amount": 0.0, "filename_prefix": "made"}
    saved = StrataLoraSave.execute(lora_stack=entries, model=model, precision=precision, layout=layout, **given).result[
        0
    ]
    assert_same(ours, by_core(model, None, saved)[0], model, ROUNDING[precision])
