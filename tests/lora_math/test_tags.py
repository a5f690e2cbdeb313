"""Prompt tags: every accepted form against a hand-written reading, and how they are written."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from strata.lora_math.errors import StrataError
from strata.lora_math.schedule import PRESETS, SHAPES, SUFFIXES, Schedule
from strata.lora_math.tag_places import find_tags
from strata.lora_math.tags import LoraTag, format_tag, read_tag, read_tags


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
        ("<lora:a:unet=0.9>", 0.9, 1, None),
        ("<lora:a:te=0.2>", 1, 0.2, None),
        ("<lora:a:0.5:te=0.2>", 0.5, 0.2, None),
        ("<lora:a:0.5:unet=0.2>", 0.2, 0.5, None),
        ("<lora:a:0.5:0.4:model=0.2>", 0.2, 0.4, None),
        ("<lyco:a:0.8>", 0.8, 0.8, None),
        ("<LyCO:a>", 1, 1, None),
        ("<lora:a:1.>", 1, 1, None),
        ("<lora:a:0.8:>", 0.8, 0.8, None),
        ("<lora: a : 0.8 >", 0.8, 0.8, None),
        ("<lora:a:1:LBW=1,0,1;>", 1, 1, "1,0,1;"),
        ("<lora:a:1:LBW=SD-X:1,A,1;A=0.5;B=0.2;>", 1, 1, "SD-X:1,A,1;A=0.5;B=0.2;"),
        ("<lora:a:1:lbw=my\\:preset:te=0.5>", 1, 0.5, "my:preset"),
        ("<lora:a:0.8:lbw=X,1,X:x=0.3>", 0.8, 0.8, "lbw=X,1,X:x=0.3"),
    ],
)
def test_a_tag_means(tag, model, clip, lbw):
    assert read_tags(tag)[1] == [LoraTag("a", model, clip, lbw)]


@pytest.mark.parametrize(
    ("tag", "model", "clip", "time"),
    [
        ("<lora:a:0.8:at=0@0%, 1@50%>", 0.8, 0.8, "0@0%, 1@50%"),
        ("<lora:a:0.8:at=0@0,1@.5;0@1>", 0.8, 0.8, "0@0%, 1@50%, 0@100%"),
        ("<lora:a:0.8:AT=Fade  In:te=0.2>", 0.8, 0.2, "fade in"),
        ("<lora:a:0.8:0.3:at=smooth: 0@0s, -1@4s>", 0.8, 0.3, "smooth: 0@0s, -1@4s"),
        ("<lora:a:at=hold:1@2sigma>", 1, 1, "hold: 1@2sigma"),
        ("<lora:a:0.8:start=5>", 0.8, 0.8, "hold: 0@0s, 1@5s"),
        ("<lora:a:0.8:stop=8>", 0.8, 0.8, "hold: 1@0s, 0@8s"),
        ("<lora:a:0.8:start=1:stop=2>", 0.8, 0.8, "hold: 0@0s, 1@1s, 0@2s"),
        ("<lora:a:0.8:step=5-10>", 0.8, 0.8, "hold: 0@0s, 1@5s, 0@10s"),
        ("<lora:a:0.8:step=0.2-0.75>", 0.8, 0.8, "hold: 0@0%, 1@20%, 0@75%"),
        ("<lora:a:0.8:step=0-4>", 0.8, 0.8, "hold: 1@0s, 0@4s"),
        ("<lora:a:0.8:start=0>", 0.8, 0.8, None),
        ("<lora:a:0@0,1@0.5>", 1, 0, "0@0%, 1@50%"),
        ("<lora:a:0.4@0,1@5:0.3>", 1, 0.3, "0.4@0s, 1@5s"),
        ("<lora:a:te=0.6:unet=1@0,0@1>", 1, 0.6, "1@0%, 0@100%"),
        ("<lora:a:0.5:unet=1@0,0@1>", 1, 0.5, "1@0%, 0@100%"),
    ],
)
def test_a_strength_over_time(tag, model, clip, time):
    found = read_tag(tag)
    assert found == LoraTag("a", model, clip, time=time)
    assert read_tag(format_tag(found)) == found


@pytest.mark.parametrize(
    ("tag", "model", "low", "clip"),
    [
        ("<lora:a:1;0.8>", 1, 0.8, 1),
        ("<lora:a:1;1>", 1, 1, 1),
        ("<lora:a: 0.5 ; -1 :0.2>", 0.5, -1, 0.2),
        ("<lora:a:unet=0;0.5>", 0, 0.5, 1),
        ("<lora:a:0.3:unet=0;0.5>", 0, 0.5, 0.3),
        ("<lora:a:1;0:te=0.5:lbw=OUT*=1,default=0:at=fade in>", 1, 0, 0.5),
    ],
)
@pytest.mark.parametrize("clip_first", [False, True])
def test_strengths_for_a_pair_of_models(tag, model, low, clip, clip_first):
    found = read_tag(tag)
    assert (found.strength_model, found.strength_low, found.strength_clip) == (model, low, clip)
    assert read_tag(format_tag(found, clip_first), clip_first) == found


def test_a_list_in_the_second_place_is_the_models_where_the_text_encoder_comes_first():
    assert read_tag("<lora:a:1:0@5,1@6>", clip_first=True) == LoraTag("a", 1, 1, time="0@5s, 1@6s")


def test_block_weights_and_a_strength_over_time_stand_side_by_side():
    for text in (
        "<lora:a:1:lbw=TE:clip_l=0.2,default=1:at=0@0%, 1@50%>",
        "<lora:a:1:at=0@0,1@.5:lbw=TE:clip_l=0.2,default=1>",
    ):
        assert read_tag(text) == LoraTag("a", 1, 1, "TE:clip_l=0.2,default=1", time="0@0%, 1@50%")


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
        ("line one,  <lora:x> \n<lora:y>, line two", "line one\nline two"),
        ("a cat <lora:x:1>, on a mat", "a cat, on a mat"),
        ("a \0 cat <lora:x:1>", "a \0 cat"),
        ("a <lora:x> \t <lora:y>\t, b", "a, b"),
        ("no tags,  here  (kept: 1.2) <b>", "no tags,  here  (kept: 1.2) <b>"),
    ],
)
def test_what_is_left_of_the_text(text, cleaned):
    assert read_tags(text)[0] == cleaned


def test_names_keep_folders_and_spaces_and_order():
    _, tags = read_tags("<lora:sdxl\\My Style v2:1> <lora:b.safetensors:0.5> <lora:sdxl\\My Style v2:1>")
    assert [tag.name for tag in tags] == ["sdxl\\My Style v2", "b.safetensors", "sdxl\\My Style v2"]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (r"cat \(anime style\)", "cat (anime style)"),
        ("cat (anime style)", "cat (anime style)"),
        (r"faces\detail", "faces\\detail"),
        (r"faces\\detail", "faces\\detail"),
        (r"a\:b \<3\>", "a:b <3>"),
        (r"a\#3a;b\#0a;", "a:b\n"),
        (r"a\#fav", "a\\#fav"),
        (r"a\#110000;", "a\\#110000;"),
        ("v\uff1atwo", "v\uff1atwo"),
        ("v\\\uff1a2", "v\uff1a2"),
        ("\u4eba\u7269/\u7d20\u63cf", "\u4eba\u7269/\u7d20\u63cf"),
    ],
)
def test_a_name_may_hold_any_character(written, name):
    assert [tag.name for tag in read_tags(f"<lora:{written}:1>")[1]] == [name]


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (LoraTag("style"), "<lora:style:1>"),
        (LoraTag("faces/detail.safetensors", 0.8, 0.3), "<lora:faces/detail.safetensors:0.8:0.3>"),
        (LoraTag("faces\\detail"), "<lora:faces\\detail:1>"),
        (LoraTag("a:b"), "<lora:a\\:b:1>"),
        (LoraTag("a", 1, 1, "TE:clip_l=0.5,default=0"), "<lora:a:1:lbw=TE:clip_l=0.5,default=0>"),
        (LoraTag("a", 1, 1, "odd:te=1"), "<lora:a:1:lbw=odd\\:te=1>"),
        (LoraTag("a", 1, 1, None, (("note", "x: y"),)), "<lora:a:1:note=x:\\#20;y>"),
        (
            LoraTag("a", 1, 1, "MID", (("note", "x"),), "smooth: 0@0s, 1@4s"),
            "<lora:a:1:lbw=MID:at=smooth:0@0s, 1@4s:note=x>",
        ),
    ],
)
def test_how_a_tag_is_written(tag, text):
    assert format_tag(tag) == text
    assert read_tag(text, also=["note"]) == tag


def test_other_keys_are_the_callers():
    tag = read_tag("<lora:a:1:off=:at=0:0.5:start=0.2>", also=("off", "at", "start"))
    assert tag.more == (("off", ""), ("at", "0:0.5"), ("start", "0.2"))
    with pytest.raises(StrataError, match="'off=' is not a number"):
        read_tag("<lora:a:1:off=>")


@given(st.text(st.sampled_from("<>lora: \t,:[]()|.5\\\n#;3a\uff1a\uff1c\0x=") | st.characters(), max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        cleaned, tags = read_tags(text)
    except StrataError:
        return
    assert tags or cleaned == text


any_text = st.text(
    st.sampled_from("\\<>:(){}[]|#;3a \n\uff1a=,\ud800") | st.characters(exclude_categories=[]), min_size=1
)


strengths = st.floats(-100, 100)


times = st.sampled_from(list(PRESETS)) | st.builds(
    lambda points, unit, shape: str(Schedule(tuple(sorted(points, reverse=unit == "sigma")), unit, shape)),
    st.lists(st.tuples(st.floats(0, 1), strengths), min_size=1, max_size=4),
    st.sampled_from(list(SUFFIXES.values())),
    st.sampled_from(SHAPES),
)


@given(
    any_text,
    strengths,
    strengths,
    st.none() | any_text.filter(str.strip),
    st.lists(any_text, max_size=2),
    st.none() | times,
    st.booleans(),
)
def test_reading_and_writing_are_inverse(name, model, clip, blocks, notes, time, clip_first):
    more = tuple((f"note{n}", note) for n, note in enumerate(notes))
    tag = LoraTag(name, model + 0.0, clip + 0.0, blocks, more, time)
    text = format_tag(tag, clip_first)
    assert read_tag(text, clip_first, also=["note0", "note1"]) == tag
    assert len(text.splitlines()) == 1
    text.encode()  # no half of a character is left
    assert find_tags(f"a {text}, b") == [(2, 2 + len(text))]
