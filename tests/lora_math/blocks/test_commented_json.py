"""JSON with comments: what is blanked and what stays, and one pass over any text."""

import json

import pytest
from deadline import deadline
from hypothesis import given
from hypothesis import strategies as st

from strata.lora_math.blocks.commented_json import without_comments


@pytest.mark.parametrize(
    ("source", "value", "comments"),
    [
        ('{"a": 1}', {"a": 1}, False),
        ('{"a": "// no", "b": "# no", "c": "/* no */"} // yes', {"a": "// no", "b": "# no", "c": "/* no */"}, True),
        ('# one\n{"a": [1, 2,], /* two\n lines */}', {"a": [1, 2]}, True),
        (r'{"a\\": "\"#", "b": "\\",}', {"a\\": '"#', "b": "\\"}, False),
        ('{"a": 1, // last\n # really\n }', {"a": 1}, True),
        ('{"a": 1 /* open', None, True),
        ('{"a, ]": 1}', {"a, ]": 1}, False),
        ("#" * 26 + '\n{"a": 1}', {"a": 1}, True),
        ("/", None, False),
        ('{"a": 1,,}', None, False),
    ],
)
def test_comments_go_and_the_rest_stays(source, value, comments):
    plain, found = without_comments(source)
    assert found is comments
    assert len(plain) == len(source)
    assert plain.count("\n") == source.count("\n")
    if value is not None:
        assert json.loads(plain) == value
    else:
        with pytest.raises(json.JSONDecodeError):
            json.loads(plain)


values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=9,
)


@given(values, st.sampled_from([None, 2]))
def test_json_without_comments_is_left_as_it_is(value, indent):
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert without_comments(text) == (text, False)


@given(values)
def test_comments_between_lines_change_nothing(value):
    text = json.dumps(value, indent=2).replace("\n", ' // "x" /*\n/* , } # */ ').replace("\n", " # \n")
    assert json.loads(without_comments(text)[0]) == value


@pytest.mark.parametrize(
    "piece",
    ["#", "/", "/*", "/**/", '"', '\\"', '"\\', ",", ", ", "#\n", ",]", "*/", ",/*", ",\n//\n", "a"],
    ids=range(15),
)
def test_any_row_of_signs_is_read_in_one_pass(piece):
    """26 of the first took a backtracking expression ten seconds, and one more each time twice as long."""
    with deadline():
        plain, _ = without_comments(piece * 100_000)
        assert len(plain) == len(piece) * 100_000
        without_comments('{"a": "' + piece * 100_000)
