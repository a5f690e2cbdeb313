"""Prompt tags that are refused, what is nearly one, what is none, and texts of any length."""

import pytest
from deadline import deadline

from strata.lora_math.errors import StrataError
from strata.lora_math.tag_places import find_parts
from strata.lora_math.tags import read_tag, read_tags


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("<lora:>", "names no LoRA"),
        ("<lora: :1>", "names no LoRA"),
        ("<lora:a:x1>", "'x1' is not a number"),
        ("<lora:a:nan>", "'nan' is not a number"),
        ("<lora:a:0_8>", "'0_8' is not a number"),
        ("<lora:a:\uff10.\uff18>", "is not a number"),
        ("<lora:a:1e30>", "1e30 is no strength"),
        ("<lora:a:te=101>", "101 is no strength"),
        ("<lora:a:1:2:3>", "3 numbers"),
        ("<lora:a:1;2;3>", "'2;3' is not a number"),
        ("<lora:a:1;>", "'' is not a number"),
        ("<lora:a:;1>", "'' is not a number"),
        ("<lora:a:1:1;2>", "two strengths of the text encoders"),
        ("<lora:a:1;2:3;4>", "two strengths of the text encoders"),
        ("<lora:a:1:te=1;2>", "two strengths of the text encoders"),
        ("<lora:a::0.3>", "an empty strength"),
        ("<lora:a:1:at=>", "is empty"),
        ("<lora:a:1:at=0@0, 1>", "'1' says no place"),
        ("<lora:a:1:at=0@0, 101@1>", "101 is no strength"),
        ("<lora:a:1:at=fade in:0.5>", "'fade in:0.5'"),
        ("<lora:a:1:start=x>", "'x' is no step"),
        ("<lora:a:1:start=-1>", "'-1' is no step"),
        ("<lora:a:1:start=2.5>", "'2.5' is no step"),
        ("<lora:a:1:start=1e300>", "'1e300' is no step"),
        ("<lora:a:1:start=nan>", "'nan' is no step"),
        ("<lora:a:1:start=5:stop=5>", "would never act"),
        ("<lora:a:1:stop=0>", "would never act"),
        ("<lora:a:1:start=0.2:stop=5>", "write both alike"),
        ("<lora:a:1:step=5>", "step=5-10"),
        ("<lora:a:1:step=5->", "step=5-10"),
        ("<lora:a:1:step=1-2-3>", "'2-3' is no step"),
        ("<lora:a:1:at=fade in:start=5>", "twice: at= and start="),
        ("<lora:a:1:step=1-2:start=5>", "twice: start= and step="),
        ("<lora:a:0@0,1@1:at=fade in>", "twice: at= and strength@place"),
        ("<lora:a:1:0@5,1@6>", "the text encoders, which run once"),
        ("<lora:a:1:te=0@5,1@6>", "the text encoders, which run once"),
        ("<lora:a:0@5,1@6:0@0,1@1>", "Write one number"),
        ("<lora:a:0@1,1@0>", "stand in order"),
        ("<lora:a:1@>", "is no point"),
        ("<lora:a:1:lbwe=ATTN>", "lbwe= is not known"),
        ("<lora:a:te=1:te=2>", "gives te twice"),
        ("<lora:a:te=1:clip=2>", "gives clip twice"),
        ("<lora:a:x=2>", "there is none"),
        ("<lora:a:1:lbw=>", "nothing stands behind lbw="),
        ("<lora:a:1:lbw= :te=1>", "nothing stands behind lbw="),
        ("< lora:a:0.8>", "nearly a tag"),
        ("<lora :a:0.8>", "nearly a tag"),
        ("<\tLyco:a>", "nearly a tag"),
        ("\uff1clora:a:0.8\uff1e", "nearly a tag"),
        ("<lora\uff1aa:0.8>", "nearly a tag"),
        ("<\u3000lora:a:0.8>", r"\(with U\+3000 in it\) is nearly a tag"),
        ("<\u00a0lora:a:0.8>", r"\(with U\+00A0 in it\) is nearly a tag"),
        ("<\u200blora:a:0.8>", r"\(with U\+200B in it\) is nearly a tag"),
        ("<lora\u3000:a:0.8>", r"\(with U\+3000 in it\) is nearly a tag"),
        ("<lora\u2003a:0.8>", "nearly a tag"),
        ("<lora a:0.8>", "nearly a tag"),
        ("\u300alora:a:0.8\u300b", "nearly a tag"),
        ("\u2039lora:a:0.8\u203a", "nearly a tag"),
        ("<\uff4c\uff4f\uff52\uff41:a:0.8>", "nearly a tag"),
        ("&lt;lora:a:0.8&gt;", "nearly a tag"),
        ("<lora;a;0.8>", "nearly a tag"),
        ("<lora=a:0.8>", "nearly a tag"),
        ("<lora\uff1ba\uff1b0.8>", "nearly a tag"),
        ("<loras:a:0.8>", "nearly a tag"),
        ("<loha:a:0.8>", "nearly a tag"),
        ("<LyCORIS:a:0.8>", "nearly a tag"),
        ("<lora:a\uff1a0.8>", "a full-width colon in front of 0.8"),
        ("<lora:a\uff1ate=0.8>", "a full-width colon in front of te=0.8"),
        ("<lora:a:0.8\uff1a0.3>", "is not a number"),
        ("<lora:a:0.8\uff1e", "is not closed"),
        ("<lora:a:0.8, q", "is not closed"),
        ("<lora:a:0.8\\>", "is not closed"),
        ("[<lora:a:0.9>:<lora:b:1.0>:0.2]", "while sampling"),
        ("[<lora:a:1>::0.5]", "while sampling"),
        ("[a (cat:1.2) <lora:a:1>:a dog:0.5]", "while sampling"),
        ("[(<lora:a:1>:1.1):0.3]", "while sampling"),
        ("[<lora:a:1>|<lora:b:1>]", "while sampling"),
        ("[<lora:a:1>:<lora:b:1>:50%]", "while sampling"),
        ("[<lora:a:1>:<lora:b:1>:-4]", "while sampling"),
        ("\uff3b<lora:a:1>\uff1a<lora:b:1>\uff1a0.5\uff3d", "while sampling"),
        ("\uff3b<lora:a:1>\uff5c<lora:b:1>]", "while sampling"),
        ("{<lora:a:1>|<lora:b:1>}", "chooses one"),
        ("{2$$(<lora:a:1>:1.2)|x}", "chooses one"),
        ("\uff5b<lora:a:1>\uff5c<lora:b:1>\uff5d", "chooses one"),
        ("// <lora:a:1>", "comment"),
        ("/* [x| <lora:a:1> */", "comment"),
        ("# <lora:a:1>", "comment.* the # away"),
        ("#<lora:a:1>, a dog", "comment"),
        ("# off: (a <lora:a:1>:1.2)", "comment"),
        ("<!-- <lora:a:1> -->", "comment"),
        ("<comment:old <lora:a:1>>", "comment"),
        ("<alternate:<lora:a:1>||<lora:b:1>>", "while sampling, which <alternate:>"),
        ("<fromto[0.5]:<lora:a:1>|<lora:b:1>>", "while sampling, which <fromto:>"),
        ("<random:<lora:a:1>|<lora:b:1>>", "<random:> around a LoRA"),
        ("<random[1-2]:x, <lora:b:1>>", "<random:> around a LoRA"),
        ("<wildcard:x,not=<lora:a:1>>", "<wildcard:> around a LoRA"),
        ("<repeat:3,<alternate:b||c> <lora:a:1>>", "<repeat:> around a LoRA"),
        ("\uff1crandom\uff1a<lora:a:1>\uff1e", "<random:> around a LoRA"),
        ("<segment:face> <lora:a:1>", "behind <segment:face> and would be for that part alone"),
        ("<region:0,0,0.5,1> a dog\n<lora:a:1>", "behind <region:0,0,0.5,1> .*in front of <region:...>, or give"),
        ("<extend:33> <lora:a:1>", "behind <extend:33> and would be for that part alone"),
        ("<pixeldecoder> <lora:a:1>", "for another model"),
        ("<object:0,0,1,0.5,0.1,0.5> <lora:a:1>", "for that part alone"),
        ("<Segment:face|hair> (x <lora:a:1>:1.2)", "for that part alone"),
        ("<segment:yolo-face.pt-1,0.8,0.25> <base> b <region:background> <lora:a:1>", "behind <region:background>"),
        ("<segment:<var:x>> <lora:a:1>", "behind <segment:<var:x>> and"),
        ("\uff1csegment\uff1aface\uff1e <lora:a:1>", "for that part alone"),
        ("<refiner> <lora:a:1>", "behind <refiner> and would be for another model"),
        ("<video> a <videoswap> <lora:a:1>", "behind <videoswap> and would be for another model"),
    ],
)
def test_a_tag_that_is_not_understood_is_shown(tag, message):
    with pytest.raises(StrataError, match=message) as error:
        read_tags(f"a cat {tag}")
    assert tag in str(error.value) or "stands behind" in str(error.value)


def test_an_open_tag_does_not_swallow_the_next_one():
    with pytest.raises(StrataError, match=r"<lora:a:0\.8, q <lora:b:1> is not closed"):
        read_tags("<lora:a:0.8, q <lora:b:1>")


@pytest.mark.parametrize(
    "text",
    [
        "[a, <lora:x:1>, b]",
        "[note: <lora:x:1>]",
        "(<lora:x:1>:1.2)",
        "[a:b:0.5] <lora:x:1> [c|d]",
        "\\[<lora:x:1>:0.5\\]",
        "[[[ <lora:x:1> :0.5",
        "{<lora:x:1>}",
        "{a|b} <lora:x:1>",
        "a // note\n<lora:x:1> // another",
        "/* a|b */ <lora:x:1>",
        "https://x.y <lora:x:1>",
        "[(a:0.5] <lora:x:1> ]",
        "<lora:x:1> # note",
        "a # note\n<lora:x:1>",
        "\\# <lora:x:1>",
        "/* # */ <lora:x:1>",
        "<random:a|b> <lora:x:1> <segment:face>",
        "<lora:x:1> <refiner> more",
        "<segment:face> a <base> b <lora:x:1>",
        "<segment face> <lora:x:1>",
        "<videos> <lora:x:1>",
        "<!-- <segment:face> --> <lora:x:1>",
        "a <3 <lora:x:1> -> b",
        "<b> <lora:x:1> </b>",
        "<!-- a --> <lora:x:1>",
    ],
)
def test_other_brackets_around_a_tag_are_a_prompts_own(text):
    assert [tag.name for tag in read_tags(text)[1]] == ["x"]


def test_a_beginning_on_two_lines_is_shown_on_one():
    with pytest.raises(StrataError, match=r"^<lora :a:0.8> \(with U\+000A in it\) is nearly a tag"):
        read_tags("a cat <lora\n:a:0.8>, b")


@pytest.mark.parametrize(
    "text",
    [
        "<Dora the explorer>",
        "<lora>",
        "a <lora> b: c",
        "explora: <b:c>",
        "a lora: b",
        "x<lorax:1>",
        # Titles in the quotation marks of other languages.
        "\u300aDora: lost city\u300b poster",
        "\u300aLoRA/\u6a21\u578b\u300b",
        "\u00ab Dora l'exploratrice : le film \u00bb",
        "\u00abLora: et le loup\u00bb, 8k",
    ],
)
def test_other_words_are_a_prompts_own(text):
    assert read_tags(text) == (text, [])


def test_parts_that_are_wrong_end_with_their_bracket():
    text = "a \u300alora:x:1\u300b, <loha:y:1> b, <lora:z:1>, <lora:v:1\uff1e w"
    found = [(text[place.start : place.stop], problem is None) for place, problem in find_parts(text)]
    assert found == [
        ("\u300alora:x:1\u300b", False),
        ("<loha:y:1>", False),
        ("<lora:z:1>", True),
        ("<lora:v:1\uff1e", False),
    ]


class Counted(str):
    """A text that counts how much of it is copied."""

    copied = 0

    def __getitem__(self, part):
        found = super().__getitem__(part)
        Counted.copied += len(found)
        return found


@pytest.mark.parametrize("piece", ["<lora:", "< lora:", "<lora: ", "<loha:x ", "\u300alora:a:1"])
def test_many_wrong_parts_cost_in_proportion_to_their_number(piece):
    copied = []
    for times in (1000, 2000):
        Counted.copied = 0
        assert len(find_parts(Counted(piece * times))) == times
        copied.append(Counted.copied)
    assert copied[1] <= 2.1 * copied[0]


@pytest.mark.parametrize("text", ["", "a", "<lora:a> ", "<lora:a><lora:b>", "<lora:a", "lora:a:1"])
def test_read_tag_takes_one_whole_tag(text):
    with pytest.raises(StrataError):
        read_tag(text)


@pytest.mark.parametrize(
    "text",
    [
        "<" + " " * 200_000,
        "< " * 100_000,
        "a <lora:x:1>" + " " * 200_000 + "b, <lora:y>",
        "<lora:x>" * 20_000,
        ", <lora:x> " * 20_000,
        "<lora:x:" + "1" * 200_000 + ">",
        "<lora:x:" + "1" * 200_000 + "x>",
        "<lora:x:lbw" + " " * 200_000 + ">",
        "<lora:" + "\\" * 200_000 + "x>",
        "<lora:x:lbw=1" + ":1" * 100_000 + ">",
        "[:" * 100_000 + "<lora:x>" + ":0.5 ]" * 100_000,
        "[" * 200_000 + "<lora:x>",
        "<lora:x\uff1a" + "\uff1a" * 200_000 + ">",
        "<lora:x:at=" + "1@0," * 50_000 + ">",
        "<lora:x:" + "1@0," * 50_000 + ">",
        "<lora:x:step=" + "1-" * 100_000 + ">",
        "<lora" + " " * 200_000,
        "<lora a" * 30_000,
        "<lora:x> " + "<random[" * 30_000,
        "<a:" * 50_000 + "<lora:x>" + ">" * 50_000,
        "<" + "\u3000" * 200_000 + "lora",
    ],
    ids=range(21),
)
def test_a_long_text_is_read_in_one_pass(text):
    with deadline():
        try:
            read_tags(text)
        except StrataError as error:
            assert len(str(error)) < 600
