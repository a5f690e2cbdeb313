"""The largest number of a tensor, in every number type that a file may have."""

import math

import pytest
import torch

from strata.lora_math.extremes import largest

FLOATS = [
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]
INTEGERS = [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64]


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=str)
def test_it_is_found_on_either_side_of_zero(dtype):
    assert largest(torch.tensor([1, 0, 64]).to(dtype)) == 64
    if dtype.is_signed:
        assert largest(torch.tensor([1, 0, -64, 2]).to(dtype)) == 64
    assert largest(torch.tensor([]).to(dtype)) == 0
    assert largest(torch.tensor(3).to(dtype)) == 3


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("numbers", [[math.nan, 1.0], [1.0, math.nan], [-5.0, math.nan, 5.0]], ids=str)
def test_a_nan_is_no_number(dtype, numbers):
    assert math.isnan(largest(torch.tensor(numbers).to(dtype)))


def test_truth_and_infinity():
    assert largest(torch.tensor([False, True])) == 1
    assert largest(torch.tensor([-math.inf, 1.0])) == math.inf
    assert largest(torch.tensor([-128], dtype=torch.int8)) == 128
