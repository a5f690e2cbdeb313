"""Which changes meet on a weight: spans of it against its numbers, marked one by one."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.nodes.fitting.fit import _overlap

SIDE = 6
spans = st.none() | st.builds(
    lambda axis, start, length: (axis, start, min(length, SIDE - start)),
    st.integers(0, 1),
    st.integers(0, SIDE - 1),
    st.integers(1, SIDE),
)


def marked(span) -> torch.Tensor:
    numbers = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    (numbers if span is None else numbers.narrow(*span)).fill_(True)
    return numbers


@settings(deadline=None)
@given(spans, spans)
def test_two_spans_overlap_where_they_share_a_number(one, other):
    assert _overlap(one, other) == bool((marked(one) & marked(other)).any())
