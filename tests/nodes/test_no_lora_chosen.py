"""A loader before a file is chosen."""

import pytest

from strata.nodes.loader import NO_LORA, StrataLoraLoader
from strata.tests.nodes.helpers import small_models


@pytest.fixture(scope="module")
def models():
    return small_models.sd15(), small_models.sd15_clip()


def test_a_new_loader_holds_no_file():
    (combo,) = (field for field in StrataLoraLoader.define_schema().inputs if field.id == "lora_name")
    assert combo.options[0] == combo.default == NO_LORA


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_it_passes_through_and_says_so(models, strength):
    assert StrataLoraLoader.validate_inputs(lora_name=NO_LORA) is True
    assert StrataLoraLoader.fingerprint_inputs(lora_name=NO_LORA) == ""
    found = StrataLoraLoader.execute(NO_LORA, strength, strength, model=models[0], clip=models[1])
    assert found.result[:3] == (models[0], models[1], "")
    assert found.result[3] == "No LoRA is chosen on this loader: nothing changed"
    assert found.result[4] == []
    assert found.ui["strata_verdict"] == [found.result[3]]
