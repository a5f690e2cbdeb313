"""Prompt tags: every accepted form against a hand-written reading, and each refusal."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from strata.lora_math.errors import StrataError
from strata.lora_math.tags import LoraTag, read_tags


@pytest.mark.parametrize(
    ("tag", "model", "clip", "lbw"),
    [
        ("<lora:a>", 1, 1, None),
        ("<lora:a:0.8>", 0.8, 0.8, None),
        ("<lora:a:.5>", 0.5, 0.5, None),
        ("<lora:a:-1e-1>", -0.1, -0.1, None),
        ("<LORA:a:+1>", 1, 1, None),
        ("<lora:a:0.8:0.3>", 0.8, 0.3, None),
        ("<lora:a:0.8:lbw=MIDD>", 0.8, 0.8, "MIDD"),
        ("<lora:a:0.8:0.3:lbw=1,0,0,1>", 0.8, 0.3, "1,0,0,1"),
        ("<lora:a:lbw=IN4=0.5, TE:clip_l=0.2, default=0:te=0.5>", 1, 0.5, "IN4=0.5, TE:clip_l=0.2, default=0"),
        ("<lora:a:te=0.2:unet=0.9>", 0.9, 0.2, None),
        ("<lora:a:unet=0.9>", 0.9, 0.9, None),
        ("<lora:a:te=0.2>", 1, 0.2, None),
        ("<lora:a:0.8:lbw=X,1,X:x=0.3>", 0.8, 0.8, "lbw=X,1,X:x=0.3"),
    ],
)
def test_a_tag_means(tag, model, clip, lbw):
    assert read_tags(tag)[1] == [LoraTag("a", model, clip, lbw)]


def test_a1111_counts_the_text_encoder_first():
    assert read_tags("<lora:a:0.8:0.3>", clip_first=True)[1] == [LoraTag("a", 0.3, 0.8)]
    assert read_tags("<lora:a:0.8>", clip_first=True)[1] == [LoraTag("a", 0.8, 0.8)]
    assert read_tags("<lora:a:te=0.2:unet=0.9>", clip_first=True)[1] == [LoraTag("a", 0.9, 0.2)]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a cat, <lora:x:1>, on a mat", "a cat, on a mat"),
        ("a cat <lora:x:1> on a mat", "a cat on a mat"),
        ("<lora:x:1> a cat", "a cat"),
        ("<lora:x:1>, a cat", "a cat"),
        ("a cat <lora:x:1>", "a cat"),
        ("a cat, <lora:x:1>", "a cat"),
        ("<lora:x><lora:y>", ""),
        ("a, <lora:x>, <lora:y>, b", "a, b"),
        ("line one <lora:x>\nline two", "line one\nline two"),
        ("no tags,  here  (kept: 1.2) <b>", "no tags,  here  (kept: 1.2) <b>"),
    ],
)
def test_what_is_left_of_the_text(text, cleaned):
    assert read_tags(text)[0] == cleaned


def test_names_keep_folders_and_spaces_and_order():
    _, tags = read_tags("<lora:sdxl\\My Style v2:1> <lora:b.safetensors:0.5> <lora:sdxl\\My Style v2:1>")
    assert [tag.name for tag in tags] == ["sdxl\\My Style v2", "b.safetensors", "sdxl\\My Style v2"]


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("<lora:>", "names no LoRA"),
        ("<lora: :1>", "names no LoRA"),
        ("<lora:a:x1>", "'x1' is not a number"),
        ("<lora:a:nan>", "'nan' is not a number"),
        ("<lora:a:1:2:3>", "3 numbers"),
        ("<lora:a:1:start=5>", "over time"),
        ("<lora:a:1:lbwe=ATTN>", "lbwe= is not known"),
        ("<lora:a:te=1:te=2>", "twice"),
        ("<lora:a:x=2>", "there is none"),
    ],
)
def test_a_tag_that_is_not_understood_is_shown(tag, message):
    with pytest.raises(StrataError, match=message) as error:
        read_tags(f"a cat {tag}")
    assert tag in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        cleaned, tags = read_tags(text)
    except StrataError:
        return
    assert tags or cleaned == text


names = st.text(st.characters(exclude_characters="<>:\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(names, st.floats(-9, 9), st.floats(-9, 9))
def test_reading_what_was_written(name, model, clip):
    _, (tag,) = read_tags(f"<lora:{name}:{model!r}:{clip!r}>")
    assert tag == LoraTag(name.strip(), model, clip)
