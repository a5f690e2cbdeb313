"""Names of new files: dates, and what every system takes."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.lora_math.errors import StrataError
from strata.lora_math.writing import file_name

NOW = datetime(2026, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("prefix", "becomes"),
    [
        ("style", "style"),
        ("faces/style", "faces/style"),
        ("faces\\style v2", "faces/style v2"),
        ("50% to 60%", "50% to 60%"),
        ("%date:yyyy-MM-dd_hh-mm-ss%", "2026-03-04_05-06-07"),
        ("%date:d.M.yy%/x", "4.3.26/x"),
        ("%year%/%month%/%day%/%hour%%minute%%second%", "2026/03/04/050607"),
        ("con", "con"),  # con_00001_.safetensors
        ("common/auxiliary", "common/auxiliary"),
    ],
)
def test_what_a_name_becomes(prefix, becomes):
    assert file_name.written_out(prefix, NOW) == becomes


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("C:\\x", "'C:' holds :"),
        ("a:b", "holds :"),
        ('what?"', 'holds " and [?]'),
        ("con/x", "'con' is the name of a device"),
        ("a/NUL.v2", "'NUL.v2' is the name of a device"),
        ("COM1 .x/y", "device"),
        ("faces./x", "ends with a dot"),
        ("%width%", "%width%. is not known. Known are %date:yyyy"),
        ("%date%", "is not known"),
        ("%date:hh:mm%", "holds :"),
        ("%Empty Latent Image.width%", "is not known"),
    ],
)
def test_what_no_file_can_be_called(prefix, says):
    with pytest.raises(StrataError, match=f"^filename_prefix: .*{says}"):
        file_name.written_out(prefix, NOW)


@given(st.text(st.sampled_from("ab./\\:%*con \u00e4dyMh"), max_size=30))
def test_whatever_is_typed_is_a_name_or_a_sentence(prefix):
    try:
        written = file_name.written_out(prefix, NOW)
    except StrataError as problem:
        assert str(problem).startswith("filename_prefix: ")
        return
    assert not set(written) & set('<>:"|?*\\')
    assert file_name.written_out(written, NOW) == written
