"""The weights text by examples: what each rule reaches, worked out by hand."""

import pytest

from strata.lora_math.blocks import BlockTextError, builtin_layout, format_weights, parse

FLUX, WAN, SDXL, LTX2 = (builtin_layout(name) for name in ("FLUX.1", "Wan", "SDXL", "LTX-2"))
QKV, MLP, MOD = "img_attn.qkv", "img_mlp.0", "img_mod.lin"


def double(index, rest=QKV):
    return f"diffusion_model.double_blocks.{index}.{rest}.weight"


def single(index, rest="linear1"):
    return f"diffusion_model.single_blocks.{index}.{rest}.weight"


def clip(index, rest="self_attn.q_proj"):
    return f"clip_l.transformer.text_model.encoder.layers.{index}.{rest}.weight"


T5 = "t5xxl.transformer.encoder.block.3.layer.0.SelfAttention.q.weight"
EMBED = "clip_l.transformer.text_model.embeddings.token_embedding.weight"
FINAL = "diffusion_model.final_layer.linear.weight"


def wan(index, rest="self_attn.q"):
    return f"diffusion_model.blocks.{index}.{rest}.weight"


def weight(text, key, layout=FLUX):
    return parse(text, layout).resolve(layout).weight(key)


EXAMPLES = [
    ("D7-12=0.5", {double(6): 1, double(7): 0.5, double(12): 0.5, double(13): 1, single(7): 1}),
    ("D7=.5", {double(7): 0.5, double(8): 1}),
    ("D07=-1", {double(7): -1}),
    ("d7=0.5", {double(7): 0.5}),
    ("S*=0", {single(0): 0, single(37): 0, double(0): 1, FINAL: 1, T5: 1}),
    ("S=0", {single(0): 0, single(37): 0, double(0): 1}),
    ("S*=0, S{7,12,16,20}=1", {single(7): 1, single(8): 0, single(20): 1}),
    ("S{7, 12-14}=0", {single(12): 0, single(14): 0, single(15): 1, single(7): 0}),
    ("S{7,12,16,20}=1, S*=0", {single(7): 0}),  # the last wins
    ("even(D)=0", {double(0): 0, double(1): 1, double(18): 0, single(0): 1}),
    ("odd(D0-10)=0", {double(1): 0, double(11): 1, double(2): 1}),
    ("even(*)=0", {double(2): 0, single(2): 0, double(3): 1, FINAL: 1}),
    ("*=0", {double(2): 0, single(2): 0, FINAL: 1, T5: 1, EMBED: 1}),
    ("*.mlp=0", {double(2, MLP): 0, double(2): 1, double(2, MOD): 1, clip(0, "mlp.fc1"): 1}),
    ("mlp=0", {double(2, MLP): 0, double(2): 1}),
    ("D0-5.attn=0.8", {double(5): 0.8, double(5, MLP): 1, double(6): 1}),
    ("D*.attn.txt=0", {double(5, "txt_attn.proj"): 0, double(5): 1, double(5, "txt_mlp.0"): 1}),
    ("img=1 txt=0.5", {double(5): 1, double(5, "txt_mlp.0"): 0.5, single(5): 1}),
    ("D=0 img=1", {double(5): 1, double(5, "txt_mlp.0"): 0}),
    ("S*.fused=0.5", {single(5): 0.5, single(5, "modulation.lin"): 1}),
    ("TE=0.4", {clip(3): 0.4, T5: 0.4, EMBED: 0.4, double(1): 1, FINAL: 1}),
    ("TE:clip_l=0.4", {clip(3): 0.4, EMBED: 0.4, T5: 1}),
    ("TE:clip_l.3=0", {clip(3): 0, clip(4): 1, EMBED: 1}),
    ("TE:clip_l.0-5=0", {clip(5): 0, clip(6): 1}),
    ("TE:clip_l.*=0", {clip(11): 0, EMBED: 1}),
    ("TE:clip_l.other=0", {clip(11): 1, EMBED: 0}),
    ("TE.attn=0", {clip(1): 0, clip(1, "mlp.fc1"): 1, T5: 0}),
    ("TE:clip_l.{0,2-3}.mlp=0", {clip(2, "mlp.fc1"): 0, clip(2): 1, clip(1, "mlp.fc1"): 1}),
    ("OTHER=0", {FINAL: 0, double(1): 1, T5: 1}),
    ("OTHER:final_layer=0", {FINAL: 0, "diffusion_model.img_in.weight": 1}),
    ("OTHER:*_in=0", {FINAL: 1, "diffusion_model.img_in.weight": 0}),
    ("default=0", {double(1): 0, FINAL: 0, T5: 0}),
    ("default=0, D7=1", {double(1): 0, double(7): 1, FINAL: 0}),
    ("default=0, OTHER=1", {double(1): 0, FINAL: 1, T5: 0}),
    ("D7=1, default=0", {double(1): 0, double(7): 1}),  # the default's place does not matter
    ("0%-50%=0", {double(0): 0, double(18): 0, single(8): 0, single(9): 1}),  # middles at 27.5/57 and 28.5/57
    ("D0%-50%=0", {double(8): 0, double(9): 1, single(0): 1}),  # 8.5/19 < 50 %; 9.5/19 is just 50 %
    ("D17-S1=0", {double(16): 1, double(17): 0, single(0): 0, single(1): 0, single(2): 1}),
    ("D0-4=0..1", {double(0): 0, double(1): 0.25, double(4): 1, double(5): 1}),
    ("D*=0.2..1.0", {double(0): 0.2, double(9): 0.6, double(18): 1.0}),
    ("D{0,4,8}=1..-1", {double(0): 1, double(4): 0, double(8): -1, double(2): 1}),
    ("D0-2.attn=0..1", {double(1): 0.5, double(1, MLP): 1}),
    ("TE:clip_l.0-2=0..1", {clip(1): 0.5, clip(3): 1}),
    ("", {double(3): 1, FINAL: 1, T5: 1}),
    (" D7 = 0.5 ;\n S* = 0 ", {double(7): 0.5, single(0): 0}),
    ("D7=1e-1", {double(7): 0.1}),
    ("D7=+2", {double(7): 2}),
]


@pytest.mark.parametrize(("text", "expected"), EXAMPLES, ids=[text for text, _ in EXAMPLES])
def test_examples(text, expected):
    weights = parse(text, FLUX).resolve(FLUX)
    assert {key: weights.weight(key) for key in expected} == pytest.approx(expected)


def test_thirds_of_the_depth_share_nothing_and_leave_nothing_out():
    for layout in (FLUX, WAN, builtin_layout("Z-Image"), builtin_layout("Qwen-Image"), SDXL):
        weights = parse("default=0, 0%-33%=1, 33%-67%=2, 67%-100%=4", layout).resolve(layout)
        values = [weights.weight(f"diffusion_model.{block.prefix}0.x.weight") for block in layout.blocks]
        assert values == sorted(values) and set(values) == {1, 2, 4}
        assert all(abs(values.count(value) - len(values) / 3) <= 1 for value in (1, 2, 4))


def test_cross_attention_of_wan_and_sdxl():
    assert weight("B.cross=0", wan(3, "cross_attn.k"), WAN) == 0
    assert weight("B.cross=0", wan(3), WAN) == 1
    sdxl = "diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight"
    assert weight("IN4.cross=0", sdxl, SDXL) == 0
    assert weight("IN4.1=0.5", sdxl, SDXL) == 0.5 and weight("IN4.0=0.5", sdxl, SDXL) == 1
    assert weight("IN05-OUT05=0", sdxl, SDXL) == 1 and weight("IN04-OUT05.attn=0", sdxl, SDXL) == 1


def test_the_streams_of_ltx2():
    at = "diffusion_model.transformer_blocks.3."
    assert weight("audio=0", f"{at}audio_attn1.to_q.weight", LTX2) == 0
    assert weight("video=0", f"{at}audio_attn1.to_q.weight", LTX2) == 1
    assert weight("video=0", f"{at}attn1.to_q.weight", LTX2) == 0
    assert weight("a2v=0", f"{at}audio_to_video_attn.to_q.weight", LTX2) == 0
    assert weight("a2v=0", f"{at}video_to_audio_attn.to_q.weight", LTX2) == 1
    assert weight("cross=0", f"{at}audio_to_video_attn.to_q.weight", LTX2) == 0


def test_auxiliary_lists_have_names():
    layout = builtin_layout("Z-Image")
    key = "diffusion_model.noise_refiner.1.attention.qkv.weight"
    assert weight("NR1=0.5", key, layout) == 0.5
    assert weight("NR*=0.5", key, layout) == 0.5
    assert weight("*=0.5", key, layout) == 0.5
    assert weight("0%-100%=0.5", key, layout) == 1  # not in the main numbering


CANONICAL = [
    ("", "TE=1, OTHER=1, default=1"),
    ("default=0", "TE=0, OTHER=0, default=0"),
    ("D07=.50", "TE=1, OTHER=1, D7=0.5, default=1"),
    ("S=0,  OTHER=0.50 te=-.5", "S*=0, OTHER=0.5, TE=-0.5, default=1"),
    ("img=1 txt=0.5", "TE=1, OTHER=1, *.img=1, *.txt=0.5, default=1"),
    ("even(S*)=0,odd(s{1,3})=1", "TE=1, OTHER=1, even(S)=0, odd(S{1,3})=1, default=1"),
    ("D0.0%-33.5%=1", "TE=1, OTHER=1, D0%-33.5%=1, default=1"),
    ("D5-D7=0.1..1.0", "TE=1, OTHER=1, D5-7=0.1..1, default=1"),
    ("d5.TXT.attn=1", "TE=1, OTHER=1, D5.attn.txt=1, default=1"),
    ("TE.attn=0, default=-0", "TE=0, OTHER=0, TE.attn=0, default=0"),
]


@pytest.mark.parametrize(("text", "canonical"), CANONICAL)
def test_the_canonical_text_states_the_three_remainders(text, canonical):
    weights = parse(text, FLUX)
    assert format_weights(weights) == str(weights) == canonical
    assert parse(canonical, FLUX) == weights


def test_invert():
    weights = parse("D7=0.2, S*=0..1, OTHER=0.3, default=0", FLUX).invert()
    assert str(weights) == "TE=1, D7=0.8, S*=1..0, OTHER=0.7, default=1"
    assert str(weights.invert()) == "TE=0, D7=0.2, S*=0..1, OTHER=0.3, default=0"


NONSENSE = [
    "D7",
    "=1",
    "D7=",
    "D7==1",
    "D7=1=2",
    "D7=one",
    "D7=nan",
    "D7=inf",
    "D7=1e999",
    "D7=50%",
    "D7={1}",
    "D{7=1",
    "D7}=1",
    "D{(7})=1",
    "D12-7=1",
    "D7-=1",
    "D7,8=1",
    "D-7=1",
    "D7.foo=1",
    "D7.=1",
    "D7..attn=1",
    "attn7=1",
    "attn.D7=1",
    "Q7=1",
    "7=1",
    "even()=1",
    "even(TE)=1",
    "even(OTHER)=1",
    "even(even(D))=1",
    "even(D=1",
    "50%=1",
    "50%-20%=1",
    "0%-101%=1",
    "TE.3=1",
    "TE:=1",
    "TE:foo=1",
    "TE:clip_l.x=1",
    "TE=0..1",
    "TE:clip_l=0..1",
    "OTHER=0..1",
    "OTHER.attn=1",
    "default=0..1",
    "D7=1 # comment",
    "D7=1 please",
    "hello",
    "0.5",
    "D7=\u0665",
    "D\u0667=1",
]


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_an_error(text):
    with pytest.raises(BlockTextError):
        parse(text, FLUX)


def test_names_that_the_model_lacks_are_noted():
    notes = parse("D25=0, L3=1, OUT0-5.attn=0.8, TE:umt5xxl=0, OTHER:head=0, video=1", FLUX).notes
    assert len(notes) == 5  # a builtin layout cannot know which streams there are
    assert notes[0] == "D25: FLUX.1 has D0-18."
    assert notes[1].startswith("L3: FLUX.1 has no L blocks; it has D0-18, S0-37")
    assert not parse("D18=0, S*=1, TE:t5xxl.23=0, OTHER:final_layer=0", FLUX).notes


def test_an_unknown_name_shows_the_models_blocks():
    with pytest.raises(BlockTextError, match=r"'Q' in 'Q7' is not a block of FLUX.1. .*D0-18, S0-37, TE:clip_l.0-11"):
        parse("Q7=1", FLUX)
