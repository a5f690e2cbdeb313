"""How errors look in ComfyUI's own dialog, before anybody reads their text."""

import pytest
from execution import full_type_name

from strata.lora_math.blocks import BlockTextError
from strata.lora_math.errors import LoraShapeError, StrataError


@pytest.mark.parametrize("error", [StrataError, BlockTextError, LoraShapeError])
def test_the_class_is_a_short_name_and_no_path(error):
    """A custom node's module is named by its path; ComfyUI puts that before the class."""
    assert full_type_name(error) == f"strata.{error.__name__}"
