"""Block weights multiply strength, block by block: nothing more, nothing less, nowhere else."""

from __future__ import annotations

import time

import comfy.model_patcher
import pytest
import torch

from strata.lora_math.blocks import FAMILIES, BlockTextError, builtin_layout, layout_of, save_preset
from strata.lora_math.errors import StrataError
from strata.nodes.block_weights import StrataLoraBlockWeights
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import core_models, lora_makers, small_models


def state(text: str, layout: str = "auto", preset: str = "none", seed: int = 0, invert: bool = False):
    return StrataLoraBlockWeights.execute(layout, preset, text, seed, invert).result


def load(name, model=None, clip=None, blocks=None, strength_model=1.0, strength_clip=1.0):
    return StrataLoraLoader.execute(
        name, strength_model, strength_clip, model=model, clip=clip, block_weights=blocks
    ).result


def weights_of(patcher) -> dict:
    return {key: patcher.patch_weight_to_device(key, return_weight=True) for key in patcher.patches}


def deltas(patcher) -> dict:
    base = patcher.model.state_dict()
    return {key: weight.double() - base[key].double() for key, weight in weights_of(patcher).items()}


@pytest.fixture
def sd15(lora_folder):
    model, clip = small_models.sd15(torch.float64), small_models.sd15_clip(torch.float64)
    tensors = lora_makers.full_lora(model, clip, dtype=torch.float32)
    return model, clip, lora_folder.save("full.safetensors", tensors)


def test_ones_are_bit_for_bit_the_loader_without_block_weights(lora_folder):
    for model, clip, prefixes in (
        (small_models.sd15(torch.float16), small_models.sd15_clip(torch.float16), ("lora_te_",)),
        (small_models.sdxl(torch.bfloat16), small_models.sdxl_clip(torch.bfloat16), ("lora_te1_", "lora_te2_")),
        (small_models.flux(torch.float32), None, ()),
    ):
        name = lora_folder.save("ones.safetensors", lora_makers.full_lora(model, clip, prefixes))
        plain, ones = load(name, model, clip), load(name, model, clip, state("*=1, TE=1, OTHER=1, default=1")[0])
        for a, b in zip(plain[:2], ones[:2], strict=True):
            if a is not None:
                a, b = weights_of(getattr(a, "patcher", a)), weights_of(getattr(b, "patcher", b))
                assert a.keys() == b.keys()
                assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("build", [small_models.sd15, small_models.sdxl, small_models.flux])
def test_one_hot_changes_exactly_that_block(lora_folder, build):
    model = build(torch.float32)
    name = lora_folder.save("full.safetensors", lora_makers.full_lora(model))
    full = weights_of(load(name, model)[0])
    layout = layout_of(model.model.state_dict())
    seen = set()
    for block in layout.blocks:
        changed = weights_of(load(name, model, blocks=state(f"{block.name}=1, default=0")[0])[0])
        assert changed, block.name
        assert all(key.startswith(f"diffusion_model.{block.prefix}") for key in changed), block.name
        assert all(torch.equal(weight, full[key]) for key, weight in changed.items())
        seen |= changed.keys()
    others = weights_of(load(name, model, blocks=state("OTHER=1, default=0")[0])[0])
    assert seen.isdisjoint(others)
    assert seen | others.keys() == full.keys()


@pytest.mark.parametrize("name", ["SD1.5", "SDXL", "FLUX.1", "SD3", "Z-Image", "Qwen-Image", "Wan 14B"])
def test_one_hot_on_the_real_layouts(lora_folder, name):
    model = comfy.model_patcher.ModelPatcher(core_models.build(name), small_models.CPU, small_models.CPU)
    shapes = lora_makers.shapes(model.model)
    names = {
        key[: -len(".weight")]: key for key in shapes if key.startswith("diffusion_model.") and key.endswith(".weight")
    }
    file = lora_folder.save("full.safetensors", lora_makers.kohya(names, shapes, rank=1, alpha=None))
    everything = set(load(file, model)[0].patches)
    blocks = layout_of(shapes).blocks
    for block in {blocks[0], blocks[len(blocks) // 3], blocks[-1]}:
        changed = set(load(file, model, blocks=state(f"{block.name}=0.5, default=0")[0])[0].patches)
        assert changed == {key for key in everything if key.startswith(f"diffusion_model.{block.prefix}")}
        assert changed


def other_algorithms(shape, generator) -> list[dict]:
    """LoHa, LoKr and dense on a weight of this shape."""
    out, into = shape
    make = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    return [
        {"hada_w1_a": make(out, 2), "hada_w1_b": make(2, into), "hada_w2_a": make(out, 2), "hada_w2_b": make(2, into)},
        {
            "lokr_w1": make(4, 4),
            "lokr_w2_a": make(out // 4, 2),
            "lokr_w2_b": make(2, into // 4),
            "alpha": torch.tensor(1.0),
        },
        {"diff": make(out, into)},
    ]


def test_minus_one_and_two_are_exact_multiples_for_every_linear_algorithm(lora_folder):
    model = small_models.sd15(torch.float64)
    shapes = lora_makers.shapes(model.model)
    blocks, generator, tensors = (
        ("input_blocks.1", "input_blocks.2", "output_blocks.11"),
        torch.Generator().manual_seed(3),
        {},
    )
    for block, parts in zip(blocks, other_algorithms((32, 32), generator), strict=True):
        module = f"diffusion_model.{block}.1.transformer_blocks.0.attn1.to_q"
        assert shapes[f"{module}.weight"] == (32, 32)
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    module = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    up, down = lora_makers.factors(shapes[f"{module}.weight"], 4, generator, torch.float32)
    tensors |= {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    name = lora_folder.save("mixed.safetensors", tensors)
    once = deltas(load(name, model)[0])
    assert len(once) == 4
    for weight in (-1.0, 2.0, 0.25):
        found = deltas(load(name, model, blocks=state(f"default={weight}")[0])[0])
        for key, delta in once.items():
            assert torch.allclose(found[key], weight * delta, rtol=1e-5, atol=1e-6), (key, weight)


def test_text_encoder_blocks_multiply_strength_clip(sd15):
    model, clip, name = sd15
    plain = load(name, model, clip, strength_clip=0.5)
    found = load(name, model, clip, state("TE:clip_l.1=0.5, TE:clip_l.2=0")[0], strength_clip=0.5)
    once, weighted = deltas(plain[1].patcher), deltas(found[1].patcher)
    for key, delta in once.items():
        factor = 0.5 if ".layers.1." in key else 0.0 if ".layers.2." in key else 1.0
        if factor:
            assert torch.allclose(weighted[key], factor * delta, rtol=1e-5, atol=1e-7), key
        else:
            assert key not in weighted
    assert all(torch.equal(a, b) for a, b in zip(deltas(plain[0]).values(), deltas(found[0]).values(), strict=True))


def test_a_lora_that_lacks_blocks_never_shifts_others(lora_folder):
    """S3 alone under a vector for every block of this FLUX: block weights are names, not positions among what is there."""
    model = small_models.flux(torch.float32, depth_single_blocks=5)
    names = lora_makers.unet_names(model, having="single_blocks_3")
    name = lora_folder.save("sparse.safetensors", lora_makers.kohya(names, lora_makers.shapes(model.model)))
    once = deltas(load(name, model)[0])
    found = deltas(load(name, model, blocks=state("0.1,0.2,0.3,0.4,0.5,0.6,0.7")[0])[0])  # D0, D1, S0..S4
    assert all(torch.allclose(found[key], 0.6 * delta, atol=1e-6) for key, delta in once.items())


def test_keys_with_text_in_them_stay_with_the_model(lora_folder):
    model = comfy.model_patcher.ModelPatcher(core_models.build("SD3"), small_models.CPU, small_models.CPU)
    shapes = lora_makers.shapes(model.model)
    names = {key[:-7]: key for key in shapes if ".context_block." in key and key.endswith(".weight")}
    name = lora_folder.save("context.safetensors", lora_makers.kohya(names, shapes, rank=1))
    found = load(name, model, blocks=state("TE=0, default=0.5")[0])[0]
    assert len(found.patches) == len([key for key in names.values() if len(shapes[key]) > 1])


def test_split_qkv_files_keep_their_attention(lora_folder):
    model = small_models.flux(torch.float32)
    name = lora_folder.save("split.safetensors", lora_makers.full_lora(model, prefix="transformer."))
    found = load(name, model, blocks=state("D1=1, default=0")[0])[0]
    assert len(found.patches["diffusion_model.double_blocks.1.img_attn.qkv.weight"]) == 3


def test_weight_zero_drops_the_patch(sd15):
    model, clip, name = sd15
    found = load(name, model, clip, state("default=0")[0])
    assert found[0] is model
    assert found[1] is clip


def test_the_report_lists_blocks_weights_and_energy(sd15):
    model, clip, name = sd15
    report = load(name, model, clip, state("IN4=0.5, IN7=0, TE=0.25")[0])[3]
    lines = {
        line.split(" x ")[0].strip(): line for line in report.splitlines() if " x " in line and line.startswith("  ")
    }
    assert "IN04 x 0.5" in lines["IN04"]
    assert "IN07 x 0:" in lines["IN07"]
    assert "x 0.25" in lines["TE:clip_l.0"]
    shares = [float(line.split(", ")[-1].split(" %")[0]) for line in lines.values() if "%" in line]
    assert 99 < sum(shares) < 101
    assert "tensors" in lines["OUT03"]


@pytest.mark.parametrize("text", ["", "default=1", "IN4=1, OUT*=1", "IN4=0.5, IN4=1"])
def test_ones_are_one_line_of_the_report(sd15, text):
    model, clip, name = sd15
    lines = load(name, model, clip, BlockSpec(text))[3].splitlines()
    assert [line for line in lines if "Block weights" in line or " x " in line] == [
        "Block weights: 1 in every block of this LoRA"
    ]


def test_the_report_names_blocks_that_the_lora_lacks(lora_folder):
    model = small_models.sd15(torch.float32)
    name = lora_folder.save(
        "part.safetensors",
        lora_makers.kohya(lora_makers.unet_names(model, having="mid_block"), lora_makers.shapes(model.model)),
    )
    report = load(name, model, blocks=state("IN4=0.5, M=1, IN99=0")[0])[3]
    assert "Named but not in this LoRA: IN04" in report
    assert "IN99" in report


@pytest.mark.parametrize("reported", [True, False])
def test_a_list_of_a_quarter_of_all_blocks_names_none_in_particular(lora_folder, reported):
    model = small_models.sd15(torch.float32)
    names = lora_makers.unet_names(model, having="mid_block")
    name = lora_folder.save("part.safetensors", lora_makers.kohya(names, lora_makers.shapes(model.model)))
    total = len(layout_of(model.model.state_dict()).blocks)
    quarter = -(-total // 4)
    last = quarter - 1 - reported
    assert last > 0
    report = load(name, model, blocks=BlockSpec(f"M=0.5, IN0-{last}=0"))[3]
    found = [line for line in report.splitlines() if "Named but not in this LoRA" in line]
    assert bool(found) == reported
    assert all(f"IN{at:02}" in line for line in found for at in range(last + 1))


def test_other_weights_are_another_patched_model(sd15):
    """ComfyUI samples what it has loaded as long as the identity stays: it must change with the weights, and with nothing else."""
    model, clip, name = sd15
    texts = (None, "IN4=0.5", "IN4=0.25", "OUT4=0.5", "IN4=0.5, TE=0.5", "IN4=0.5")
    found = [load(name, model, clip, None if text is None else BlockSpec(text)) for text in texts]
    for sides in zip(*(pair[:2] for pair in found), strict=True):
        identities = [getattr(side, "patcher", side).patches_uuid for side in sides]
        assert identities[1] == identities[5]
        assert len(set(identities)) == len(texts) - 1


def test_energy_shares_are_those_of_the_dense_deltas(lora_folder):
    model = small_models.sd15(torch.float64)
    name = lora_folder.save("full.safetensors", lora_makers.full_lora(model, dtype=torch.float32))
    found = load(name, model, blocks=BlockSpec("default=2"))
    layout = layout_of(model.model.state_dict())
    energy: dict[str, float] = {}
    for key, delta in deltas(found[0]).items():
        block = layout.locate(key).block.split(":")[0]
        energy[block] = energy.get(block, 0.0) + float(delta.square().sum())
    total = sum(energy.values())
    lines = [line for line in found[3].splitlines() if " x 2: " in line]
    assert len(lines) == len(energy)
    for line in lines:
        block, share = line.split(" x ")[0].strip(), float(line.split(", ")[-1].split(" %")[0])
        assert abs(share - 100 * energy[block] / total) < 0.06, line


class TestNode:
    def test_the_canonical_text_comes_out(self):
        assert state("D7-12=.5, S*=0", layout="FLUX.1")[1] == "TE=1, OTHER=1, D7-12=0.5, S*=0, default=1"
        assert state(" in4=0.5 ")[1] == "TE=1, OTHER=1, IN4=0.5, default=1"

    @pytest.mark.parametrize(
        ("text", "words"), [("ZZ9=0.5", "'ZZ' in 'ZZ9'"), ("D3=0, ZZ=1", "'ZZ' is"), ("MIDDLE", "Did you mean SD-MIDD")]
    )
    def test_what_no_family_has_is_not_blamed_on_one_of_them(self, text, words):
        with pytest.raises(BlockTextError, match="of any model") as problem:
            state(text)
        assert words in str(problem.value)
        assert "not a block of SD1.5" not in str(problem.value)
        with pytest.raises(BlockTextError, match=r"of FLUX\.1"):
            state(text, layout="FLUX.1")

    def test_a_vector_of_one_meaning_is_named_without_a_model(self):
        text = state("1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0")[1]  # 17 entries: BASE and the attention blocks of SD1.5
        assert "IN5=1" in text.replace("IN{5,7,8}=1", "IN5=1")
        vector = ",".join(["0.5", *["1"] * 19])
        assert state(vector)[1] == vector, "20 entries are SDXL or FLUX: only the model can tell"

    def test_invert(self):
        assert state("IN4=0.25, default=1", invert=True)[1] == "TE=0, OTHER=0, IN4=0.75, default=0"

    @pytest.mark.parametrize(
        "text",
        [
            ",".join(["0.25", "R", "U", *["1"] * 17]),  # 20 entries: SDXL or FLUX
            ",".join(["0.25", "R", *["0.5"] * 55]),  # 57: FLUX.1 and others of that depth
            "%default=0,in1=1",
            '{"double_blocks.3.": 0.5}',
            "ALL0.5",
        ],
    )
    @pytest.mark.parametrize("invert", [False, True])
    def test_the_text_that_comes_out_means_what_the_spec_means(self, text, invert):
        """Also where several families read it: the text can be put into another node, which has another seed."""
        spec, out = state(text, seed=11, invert=invert)
        again = BlockSpec(out)
        read = 0
        for family in FAMILIES:
            layout = builtin_layout(family)
            try:
                expected = spec.read(layout)
            except BlockTextError:
                continue
            assert again.read(layout) == expected, (family, out)
            read += 1
        assert read

    def test_invert_of_a_vector_that_only_a_model_reads(self):
        assert state("1,R,3", seed=5, invert=True)[1] == "invert(seed(5, 1,R,3))"
        assert state("invert(1,2,3)")[1] == "invert(1,2,3)"

    def test_a_rule_that_selects_nothing_is_said(self, sd15):
        model, clip, name = sd15
        empty = {
            "IN4.attn.cross": "nothing is both attn and cross",
            "*.attn.mlp": "nothing is both attn and mlp",
            "*.img": "no weights that are img",
            "IN4.77": "no such weight",
            "M*.7": "no such weight",
            "IN0.attn": "no such weight",
            "TE.conv": "text encoders have no such weight",
        }
        full = ("IN4.attn", "*.mlp", "IN4.0", "M*.1", "IN0.conv", "TE.mlp", "IN4.cross.0", "OTHER")
        report = load(name, model, clip, ", ".join(f"{left}=0" for left in (*empty, *full)))[3]
        notes = [
            line.strip().removeprefix("Note: ").split(": ", 1)
            for line in report.splitlines()
            if line.startswith("  Note: ")
        ]
        assert [left for left, _ in notes] == list(empty)
        for (left, said), note in zip(notes, empty.values(), strict=True):
            assert note in said, left

    def test_a_preset_counts_while_the_text_is_empty(self):
        assert "IN{1,2,4}=1" in state("", layout="SD1.5", preset="INS")[1]
        assert "IN{1,2,4}" not in state("M=0", layout="SD1.5", preset="INS")[1]

    def test_an_edited_preset_counts_in_the_next_run(self, sd15, tmp_path, monkeypatch):
        model, clip, name = sd15
        file = tmp_path / "block_presets.json"
        monkeypatch.setattr("strata.nodes.fitting.block_spec.user_preset_file", lambda: str(file))
        report = lambda: load(name, model, clip, BlockSpec("mine"))[3]  # noqa: E731
        with pytest.raises(BlockTextError, match="mine"):
            report()
        for text in ("IN*=0, default=1", "OUT*=0.5, default=1"):
            save_preset(file, "SD1.5", "mine", text)
            assert all(text in report() for _ in range(2))
        file.unlink()
        with pytest.raises(BlockTextError, match="mine"):
            report()

    def test_a_preset_of_another_family_is_an_error_that_says_so(self, lora_folder):
        with pytest.raises(BlockTextError, match=r"no preset of FLUX\.1"):
            state("INS", layout="FLUX.1")

    @pytest.mark.parametrize("text", ["nonsense", "IN4", "IN4=x", "1,q,3", "Q17=1", "{", "%", "lbw=NONSENSE"])
    def test_nonsense_is_an_error_on_this_node(self, text):
        with pytest.raises(BlockTextError):
            state(text)

    def test_a_vector_of_a_length_that_no_model_has_is_the_loaders_error(self, sd15):
        model, clip, name = sd15
        assert state("1,2,3")[1] == "1,2,3"
        with pytest.raises(BlockTextError, match=r"3 entries, but SD1\.5 takes 17"):
            load(name, model, clip, state("1,2,3")[0])

    def test_the_seed_decides_random_entries(self):
        vector = "1,R,R,R,R,R,R,1,1,1,1,1,1,1,1,1,U"
        one, again, other = (state(vector, "SD1.5", seed=seed)[1] for seed in (1, 1, 2))
        assert one == again != other

    def test_the_wire_takes_text_and_refuses_other_things(self, sd15):
        model, clip, name = sd15
        assert "IN04 x 0.5" in load(name, model, clip, "IN4=0.5")[3]
        with pytest.raises(StrataError, match="BLOCK_WEIGHTS"):
            load(name, model, clip, {"double_blocks.0.": 1.0})


def test_twenty_six_weights_cost_no_more_than_one_and_a_half_times_the_node_without(lora_folder):
    """A ratio, not a time: full SDXL names on the meta device."""
    model = comfy.model_patcher.ModelPatcher(core_models.build("SDXL"), small_models.CPU, small_models.CPU)
    name = lora_folder.save(
        "xl.safetensors", lora_makers.kohya(lora_makers.unet_names(model), lora_makers.shapes(model.model), rank=1)
    )
    text = ", ".join(
        f"{block.name}={0.1 + 0.03 * at:.2f}" for at, block in enumerate(layout_of(model.model.state_dict()).blocks)
    )
    spec = state(text)[0]
    plain, weighted = [], []
    for _ in range(12):
        for times, blocks in ((plain, None), (weighted, spec)):
            start = time.thread_time()
            load(name, model, blocks=blocks)
            times.append(time.thread_time() - start)
    # The best of each: what other programs take from the caches only ever adds.
    assert min(weighted) <= 1.5 * min(plain), (plain, weighted)
