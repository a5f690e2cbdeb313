"""Two models and one stack, against each model patched alone by ComfyUI's own loader."""

from __future__ import annotations

import comfy.sample
import comfy.sd
import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.lora_math.rows_text import read_rows, reduced
from strata.lora_math.tags import read_tag
from strata.nodes.comfy.live import loras_of
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack
from strata.nodes.stack import StackEntry, of_tag, read_stack
from strata.tests.nodes.helpers import lora_makers, sampling, small_models

HIGH, LOW = "style_high_noise.safetensors", "style_low_noise.safetensors"
STEPS = 4


@pytest.fixture(scope="module")
def experts():
    high, low = sampling.MODELS["Wan"](), sampling.MODELS["Wan"]()
    small_models.fill(low.model, seed=7)
    yield high, low
    sampling.unload()


@pytest.fixture(scope="module")
def tensors(experts):
    return {
        name: lora_makers.full_lora(experts[0], None, seed=seed, dtype=torch.float32, rank=2)
        for seed, name in enumerate("abcd")
    }


@pytest.fixture
def folder(lora_folder, tensors):
    lora_folder.tensors = {HIGH: tensors["a"], LOW: tensors["b"], "plain.safetensors": tensors["c"]}
    for name, found in lora_folder.tensors.items():
        lora_folder.save(name, found)
    return lora_folder


def on_pair(rows, experts, **settings):
    found = StrataLoraStack.execute(rows, model=experts[0], model_low=experts[1], **settings)
    return found.result, found.ui


def by_core(model, folder, *loras):
    for name, strength in loras:
        model, _ = comfy.sd.load_lora_for_models(model, None, folder.tensors[name], strength, 0)
    return model


def weights(model) -> dict:
    return {key: model.patch_weight_to_device(key, return_weight=True) for key in model.patches}


def assert_same(found, expected):
    found, expected = weights(found), weights(expected)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[key], expected[key], rtol=1e-5, atol=1e-6) for key in found)


CASES = [
    (f"<lora:{HIGH}:1;0.5>", [(HIGH, 1.0)], [(LOW, 0.5)]),
    (f"<lora:{LOW}:1;0.5>", [(HIGH, 1.0)], [(LOW, 0.5)]),
    ("<lora:style_high_noise:0;0.5>", [], [(LOW, 0.5)]),
    ("<lora:style_low_noise:-1;0>", [(HIGH, -1.0)], []),
    (f"<lora:{HIGH}:0.75>", [(HIGH, 0.75)], []),
    (f"<lora:{LOW}:0.75>", [], [(LOW, 0.75)]),
    ("<lora:plain:0.75>", [("plain.safetensors", 0.75)], [("plain.safetensors", 0.75)]),
    ("<lora:plain:0.75;0.25>", [("plain.safetensors", 0.75)], [("plain.safetensors", 0.25)]),
    (
        f"<lora:{HIGH}:1;0.5>\noff <lora:plain:1>\n<lora:plain:0;1>",
        [(HIGH, 1.0)],
        [(LOW, 0.5), ("plain.safetensors", 1.0)],
    ),
    (f"<lora:{HIGH}:1>\n<lora:{LOW}:0.5>", [(HIGH, 1.0)], [(LOW, 0.5)]),
]


@pytest.mark.parametrize("is_prompt", [False, True])
@pytest.mark.parametrize(("rows", "high", "low"), CASES)
def test_each_model_is_as_core_patches_it_alone(experts, folder, rows, high, low, is_prompt):
    result, ui = on_pair(reduced(read_rows(rows)) if is_prompt else rows, experts)
    assert_same(result[0], by_core(experts[0], folder, *high))
    assert_same(result[6], by_core(experts[1], folder, *low))
    assert ui["strata_warned"] == [False]


def test_the_latent_of_both_experts_in_turn(experts, folder):
    """The first half of the steps with one model, the rest with the other one; live, and as core has patched each."""

    def latent(high, low):
        latent = torch.zeros_like(sampling.noise("Wan"))
        for model, first, last in ((high, 0, 2), (low, 2, STEPS)):
            noise = sampling.noise("Wan") if first == 0 else torch.zeros_like(latent)
            latent = comfy.sample.sample(
                *(
                    model,
                    noise,
                    STEPS,
                    1.0,
                    "euler",
                    "simple",
                    sampling.prompt("Wan", 1),
                    sampling.prompt("Wan", 2),
                    latent,
                ),
                disable_noise=first > 0,
                start_step=first,
                last_step=last,
                force_full_denoise=last == STEPS,
                disable_pbar=True,
                seed=3,
            )
        return latent

    strong = f"<lora:{HIGH}:8;4>"
    expected = latent(by_core(experts[0], folder, (HIGH, 8.0)), by_core(experts[1], folder, (LOW, 4.0)))
    assert (latent(*experts) - expected).norm() > 1e-3 * expected.norm()
    for apply in ("patch", "live"):
        result, _ = on_pair(strong, experts, apply=apply)
        assert (latent(result[0], result[6]) - expected).norm() < 1e-4 * expected.norm()


def test_without_a_second_model_all_is_as_before(experts, folder):
    """A stack for each model, with one file each: the rows of old workflows."""
    for name in (HIGH, LOW):
        result = StrataLoraStack.execute(f"<lora:{name}:0.5>", model=experts[1]).result
        assert_same(result[0], by_core(experts[1], folder, (name, 0.5)))
        assert result[6] is None


def test_one_model_takes_the_high_half_and_says_what_is_not_used(experts, folder):
    result = StrataLoraStack.execute(f"<lora:{LOW}:1;0.5>", model=experts[0]).result
    assert_same(result[0], by_core(experts[0], folder, (HIGH, 1.0)))
    assert f"Not used: {LOW} at 0.5, which is for model_low" in result[4]


def test_only_the_second_model(experts, folder):
    result = StrataLoraStack.execute(f"<lora:{HIGH}:1;0.5>\n<lora:{HIGH}:1>", model_low=experts[1]).result
    assert result[0] is None
    assert_same(result[6], by_core(experts[1], folder, (LOW, 0.5)))
    assert "MODEL (high): not connected, 2 LoRAs for it not used" in result[4]


def test_a_pair_goes_through_a_lora_stack_and_a_workflow(experts, folder):
    """Other packs see three values, the high half's; this pack's stack knows both halves again."""
    handed = StrataLoraStack.execute(f"<lora:{LOW}:1;0.5:lbw=S00=0.5>").result[2]
    assert [tuple(entry) for entry in handed] == [(HIGH, 1.0, 1.0)]
    assert [entry.low for entry in read_stack(handed)] == [(LOW, 0.5)]
    result, _ = on_pair("", experts, lora_stack=handed)
    direct, _ = on_pair(f"<lora:{HIGH}:1;0.5:lbw=S00=0.5>", experts)
    assert_same(result[0], direct[0])
    assert_same(result[6], direct[6])
    loaded = StrataLoraLoader.execute("plain.safetensors", 0.0, 0.0, model=experts[0], lora_stack=handed).result
    assert f"Not used: {LOW}" in loaded[3]
    assert loaded[4][0].low == (LOW, 0.5)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (f"<lora:{HIGH}:1;0.5>", "<lora:style_high_noise:1> <lora:style_low_noise:0.5:0>"),
        (f"<lora:{HIGH}:0;0.5>", "<lora:style_low_noise:0.5:0>"),
        (f"<lora:{LOW}:0.5>", "<lora:style_low_noise:0.5>"),
        ("<lora:plain:0.5>", "<lora:plain:0.5>"),
    ],
)
def test_the_tags_for_other_programs_name_each_file_that_acts(experts, folder, rows, text):
    result, ui = on_pair(rows, experts)
    assert result[5] == text == ui["strata_used"][0]
    again, _ = on_pair(text, experts)
    assert_same(again[0], result[0])
    assert_same(again[6], result[6])


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (f"<lora:{HIGH}:1;0.5>", "<lora:style_high_noise:1>"),
        (f"<lora:{LOW}:1;0.5>", "<lora:style_high_noise:1>"),
        (f"<lora:{HIGH}:0;0.5>", ""),
        ("<lora:plain:0.5;1>", "<lora:plain:0.5>"),
        ("<lora:plain:0;1>", ""),
    ],
)
def test_the_tags_name_no_file_of_a_pair_that_one_model_leaves_out(experts, folder, rows, text):
    found = StrataLoraStack.execute(rows, model=experts[0])
    assert found.result[5] == text == found.ui["strata_used"][0]
    assert "leaves out what no tag says" not in found.result[4]
    assert "which is for model_low" in found.result[4]
    again = StrataLoraStack.execute(text, model=experts[0]).result
    assert_same(again[0], found.result[0])


@pytest.mark.parametrize(
    ("rows", "loras"),
    [
        ("<lora:plain:1>", [("plain", 1.0, 1.0)]),
        ("<lora:plain:1;0.5:0.3>", [("plain", 0.5, 0.3)]),
        ("<lora:s_high_noise:1;0.5:0.3>", [("s_low_noise", 0.5, 0.3)]),
        ("<lora:s_high_noise:0;0.5:0.3>", [("s_low_noise", 0.5, 0.3)]),
        ("<lora:s_low_noise:0.5:0.2>", [("s_low_noise", 0.5, 0.2)]),
        ("<lora:s_high_noise:1>", []),
    ],
)
def test_the_text_encoders_change_with_the_low_model_alone(lora_folder, rows, loras):
    """Against ComfyUI's own loader."""
    model, clip = small_models.sd15(), small_models.sd15_clip()
    tensors = {
        name: lora_makers.full_lora(model, clip, seed=seed, dtype=torch.float32, rank=2)
        for seed, name in enumerate(("plain", "s_high_noise", "s_low_noise"))
    }
    for name, found in tensors.items():
        lora_folder.save(f"{name}.safetensors", found)
    result = StrataLoraStack.execute(rows, model_low=model, clip=clip).result
    expected, expected_clip = model, clip
    for name, *strengths in loras:
        expected, expected_clip = comfy.sd.load_lora_for_models(expected, expected_clip, tensors[name], *strengths)
    assert_same(result[6], expected)
    assert_same(result[1].patcher, expected_clip.patcher)
    assert result[5] == " ".join(f"<lora:{name}:{m:g}{'' if m == c else f':{c:g}'}>" for name, m, c in loras)


def test_what_no_tag_says_of_one_file_at_two_strengths(experts, folder):
    result, _ = on_pair("<lora:plain:1;0.5>", experts)
    assert result[5] == "<lora:plain:1>"
    assert "leaves out what no tag says of plain: its strength 0.5 on model_low" in result[4]


class TestWarnings:
    def test_a_high_file_on_low(self, experts, folder):
        (folder.path / LOW).unlink()
        folder.save("other.safetensors", folder.tensors[HIGH])
        result, ui = on_pair(f"<lora:{HIGH}:1;0.5>", experts)
        assert_same(result[6], by_core(experts[1], folder, (HIGH, 0.5)))
        assert ui["strata_warned"] == [True]
        assert f"{HIGH} is for high noise and acts on MODEL (low)" in ui["strata_verdict"][0]
        assert ui["strata_rows"][0]["warned"]

    def test_what_is_the_same_on_both_is_said_once(self, experts, folder):
        layer = "lora_unet_down_blocks_0_attentions_0_proj_in"
        strange = {
            f"{layer}.lora_up.weight": torch.ones(320, 2, 1, 1),
            f"{layer}.lora_down.weight": torch.ones(2, 320, 1, 1),
        }
        folder.save("strange.safetensors", strange)
        _, ui = on_pair("<lora:strange:1>\n<lora:plain:1>", experts, on_problem="warn")
        told, fine = (row["verdict"] for row in ui["strata_rows"])
        assert told.startswith("high and low: ") and told.count("strange.safetensors") == 1
        assert ui["strata_verdict"] == [told] and ui["strata_warned"] == [True]
        assert fine.startswith("high and low: plain.safetensors: all ") and fine.count("applied") == 1

    def test_one_sided_rows_of_a_file_without_its_other_half_are_fine(self, experts, folder):
        (folder.path / LOW).unlink()
        folder.save("other.safetensors", folder.tensors[HIGH])
        _, ui = on_pair(f"<lora:{HIGH}:1;0>", experts)
        assert ui["strata_warned"] == [False]

    def test_a_name_that_its_header_contradicts(self, experts, folder):
        folder.save(HIGH, folder.tensors[HIGH], {"modelspec.timestep_range": "0,875"})
        result, ui = on_pair(f"<lora:{HIGH}:1>", experts)
        assert_same(result[6], by_core(experts[1], folder, (HIGH, 1.0)))
        assert ui["strata_warned"] == [True]
        assert "its name says high, its header was trained on low noise" in ui["strata_verdict"][0]

    def test_models_that_are_swapped(self, experts, folder):
        models = [model.clone() for model in experts]
        for model, name in zip(
            models, ("wan2.2_low_noise_14B.safetensors", "wan2.2_high_noise_14B.safetensors"), strict=True
        ):
            model.cached_patcher_init = (comfy.sd.load_diffusion_model, (f"/models/{name}", {}))
        _, ui = on_pair(f"<lora:{HIGH}:1;1>", models)
        assert (
            "MODEL (high) was loaded from wan2.2_low_noise_14B.safetensors, whose name says low"
            in ui["strata_verdict"][0]
        )
        _, ui = on_pair(f"<lora:{HIGH}:1;1>", models[::-1])
        assert ui["strata_warned"] == [False]

    def test_a_word_alone_is_no_expert_and_that_is_said(self, experts, folder):
        folder.save("low_light.safetensors", folder.tensors["plain.safetensors"])
        result, ui = on_pair("<lora:low_light:1>", experts)
        assert result[0].patches
        assert result[6].patches
        assert "Write 0;1 where its name means one of them" in result[4]
        assert ui["strata_warned"] == [False]

    @pytest.mark.parametrize("rows", ["<lora:low-angle:1>\n<lora:high-angle:1>", "<lora:low-angle:1;1>"])
    def test_a_pair_by_a_word_alone_is_said_once(self, experts, folder, rows):
        for name, of in (("low-angle", LOW), ("high-angle", HIGH)):
            folder.save(f"{name}.safetensors", folder.tensors[of])
        result, ui = on_pair(rows, experts)
        assert_same(result[0], by_core(experts[0], folder, (HIGH, 1.0)))
        assert_same(result[6], by_core(experts[1], folder, (LOW, 1.0)))
        said = "high-angle.safetensors and low-angle.safetensors are taken for the two halves of a pair"
        assert result[4].count(said) == 1
        assert ui["strata_warned"] == [False]
        assert "are taken for" not in on_pair(f"<lora:{HIGH}:1;1>", experts)[0][4]

    def test_a_folder_that_says_low_hides_no_high_file(self, experts, folder):
        (folder.path / "low vram").mkdir()
        folder.save("low vram/q_high_noise.safetensors", folder.tensors[HIGH])
        result, _ = on_pair("<lora:low vram/q_high_noise:1>", experts)
        assert_same(result[0], by_core(experts[0], folder, (HIGH, 1.0)))
        assert not result[6].patches


def test_halves_by_their_headers(experts, folder):
    folder.save("x-H.safetensors", folder.tensors[HIGH], {"modelspec.timestep_range": "875,1000"})
    folder.save("x-L.safetensors", folder.tensors[LOW], {"modelspec.timestep_range": "0,875"})
    folder.tensors |= {"x-H.safetensors": folder.tensors[HIGH], "x-L.safetensors": folder.tensors[LOW]}
    result, _ = on_pair("<lora:x-L:1;0.5>", experts)
    assert_same(result[0], by_core(experts[0], folder, ("x-H.safetensors", 1.0)))
    assert_same(result[6], by_core(experts[1], folder, ("x-L.safetensors", 0.5)))


def test_a_strength_over_time_is_on_both(experts, folder):
    result, _ = on_pair(f"<lora:{HIGH}:1;0.5:at=fade in>", experts)
    for model in (result[0], result[6]):
        assert [str(lora.keyframes) for lora in loras_of(model)] == ["0@0%, 1@100%"]


def test_several_possible_halves_stop_or_are_said(experts, folder):
    for name in ("high_a_high", "low_a_high", "high_a_low"):
        folder.save(f"{name}.safetensors", folder.tensors[HIGH])
    with pytest.raises(StrataError, match="2 files could be the other half"):
        on_pair("<lora:high_a_high:1;1>", experts)
    result, ui = on_pair(f"<lora:high_a_high:1;1>\n<lora:{HIGH}:1;1>", experts, on_problem="warn")
    assert ui["strata_warned"] == [True]
    assert [entry[0] for entry in result[2]] == [HIGH]


def test_the_node_runs_again_when_the_other_half_changes(experts, folder):
    text = f"<lora:{HIGH}:1;0.5>"
    before = StrataLoraStack.fingerprint_inputs(text)
    assert StrataLoraStack.fingerprint_inputs(text) == before
    folder.save(LOW, {key: 2 * value for key, value in folder.tensors[LOW].items()}, {"a": "another"})
    replaced = StrataLoraStack.fingerprint_inputs(text)
    assert replaced != before
    (folder.path / LOW).unlink()
    folder.save("other.safetensors", folder.tensors[HIGH])
    assert StrataLoraStack.fingerprint_inputs(text) not in (before, replaced)


def test_a_second_model_that_is_none(folder):
    with pytest.raises(StrataError, match="model_low is 'x', not a MODEL"):
        StrataLoraStack.execute("", model_low="x")


def test_a_tag_of_a_prompt_is_the_high_half(folder):
    assert of_tag(read_tag(f"<lora:{LOW}:1;0.5:0.2>")) == (HIGH, 1.0, 0.2)
    assert isinstance(of_tag(read_tag(f"<lora:{LOW}:1;0.5>")), StackEntry)
