"""What is said of masks, how nodes carry them, and which rows of a LoRA Stack have one."""

from __future__ import annotations

import comfy_extras.nodes_torch_compile as compiling
import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.lora_math.rows_text import read_rows, reduced
from strata.nodes.comfy.live import into_patches, loras_of
from strata.nodes.comfy.live_regions import hand_over, read_mask, unused
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack
from strata.nodes.prompt import StrataLoraFromPrompt
from strata.nodes.stack import StackEntry, read_stack
from strata.tests.nodes.helpers import lora_makers, masking, sampling
from strata.tests.nodes.helpers.masking import left, with_masks

models = pytest.fixture(scope="module")(masking.models)


def test_a_mask_that_another_node_does_not_hand_on_is_said(models, monkeypatch):
    model, one, _ = models("FLUX.1")
    told = []
    monkeypatch.setattr("strata.nodes.comfy.live_run.tell", lambda node, text: told.append(text))
    clone = with_masks(model, [(one, left())])
    clone.set_model_unet_function_wrapper(
        lambda apply, args: apply(
            args["input"],
            args["timestep"],
            **{name: value for name, value in args["c"].items() if "strata" not in name},
        )
    )
    sampling.sample(clone, "FLUX.1")
    assert told == [told[0]] and "its mask did not reach the model in 2 of 2 calls" in told[0]


@pytest.mark.parametrize("counts", [(2, 3), (1, 6), (4, 6), (7, 2)])
def test_masks_go_round_a_batch_each_by_its_own_count(counts):
    """A mask for each picture that is all white or all black: what is handed on is counted by hand."""
    masks = [(torch.arange(count) % 2 == 0).float()[:, None, None].expand(-1, 8, 8) for count in counts]
    conds = {"positive": [{}]}
    hand_over(conds, (6, 4, 8, 8), masks, "x")
    handed = conds["positive"][0]["model_conds"]["x"].process_cond(batch_size=6, area=None).cond
    for group, count in enumerate(counts):
        assert handed[:, group].mean((1, 2)).tolist() == [float(at % count % 2 == 0) for at in range(6)]


def test_pictures_of_a_mask_that_have_no_place_are_said(models, monkeypatch):
    model, one, _ = models("FLUX.1")
    told = []
    monkeypatch.setattr("strata.nodes.comfy.live_run.tell", lambda node, text: told.append(text))
    sampling.sample(with_masks(model, [(one, left().repeat(3, 1, 1))]), "FLUX.1")
    assert told == ["0.safetensors: the mask has 3 pictures, this batch 1 picture: one is for each; 2 are not used"]
    video = unused(torch.ones(9, 8, 8), (1, 16, 3, 8, 8))
    assert (
        video == "the mask has 9 pictures, this batch 1 video: one is for each, for all of its frames; 8 are not used"
    )
    assert unused(torch.ones(2, 8, 8), (2, 4, 8, 8)) == ""


@pytest.mark.parametrize(
    "mask", [torch.ones(8, 8).to_sparse(), torch.ones(8, 8, device="meta"), torch.full((8, 8), 1.1)]
)
def test_what_is_no_mask_is_said_by_its_name(mask):
    with pytest.raises(StrataError, match=r"^mask "):
        read_mask(mask)


def test_a_mask_that_is_rounded_is_one():
    assert torch.equal(read_mask(torch.full((8, 8), 1 + 1e-7)), torch.ones(1, 8, 8))


def test_the_loader_and_the_stack_carry_it(models, lora_folder):
    model, _, _ = models("FLUX.1")
    tensors = lora_makers.full_lora(model, alpha=64.0, dtype=torch.float32)
    names = [lora_folder.save(f"{name}.safetensors", tensors) for name in "ab"]

    def load(name, **settings):
        return StrataLoraLoader.execute(name, 1.0, 0.0, model=model, apply="auto", **settings).result

    direct = load(names[0], mask=left()[0])
    assert (
        "Mask: acts where it is white; on text tokens, time and modulation by the share of the picture that it covers"
        in direct[3]
    )
    (entry,) = read_stack([StackEntry(names[0], 1.0, 0.0, mask=left())])
    handed = StrataLoraLoader.execute(names[1], 0.0, 0.0, model=model, lora_stack=[entry]).result
    sample = lambda m: sampling.sample(m, "FLUX.1")  # noqa: E731
    found = sample(direct[0])
    assert torch.equal(found, sample(handed[0])) and not torch.equal(found, sample(load(names[0])[0]))
    assert handed[4][0].mask is entry.mask


def test_text_tokens_without_a_mask_are_said(models, lora_folder):
    model, _, _ = models("FLUX.1")
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model, dtype=torch.float32))
    load = lambda **settings: StrataLoraLoader.execute(name, 1.0, 0.0, model=model, **settings).result[3]  # noqa: E731
    said = "text_tokens is unmasked, which is about the mask, and none is connected"
    assert said in load(text_tokens="unmasked")
    assert said not in load(text_tokens="unmasked", mask=left()) and said not in load(text_tokens="masked")


@pytest.mark.parametrize(
    "mask",
    [
        5,
        "x",
        torch.ones(8),
        torch.ones(1, 2, 3, 4),
        torch.zeros(1, 0, 8),
        torch.full((8, 8), 2.0),
        torch.full((8, 8), torch.nan),
    ],
)
def test_no_mask_is_refused_in_words(models, lora_folder, mask):
    model, _, _ = models("FLUX.1")
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model, dtype=torch.float32))
    with pytest.raises(StrataError, match=r"^mask "):
        StrataLoraLoader.execute(name, 1.0, 0.0, model=model, mask=mask)


def test_what_has_no_places_is_refused(models):
    """A file, a compiled model."""
    model, one, _ = models("FLUX.1")
    clone = with_masks(model, [(one, left())])
    with pytest.raises(StrataError, match=r"0\.safetensors: it acts in a part of the picture only"):
        into_patches(clone.clone())
    clone = compiling.TorchCompileModel.execute(clone, "eager").result[0]
    with pytest.raises(StrataError, match=r"Disconnect the mask or remove torch\.compile"):
        sampling.sample(clone, "FLUX.1")


class TestRows:
    """Masks of a LoRA Stack, chosen by its rows."""

    @pytest.fixture
    def files(self, models, lora_folder):
        model, _, _ = models("SD1.5")
        for seed, name in enumerate(("one", "two")):
            lora_folder.save(
                f"{name}.safetensors", lora_makers.full_lora(model, None, seed=seed, dtype=torch.float32, rank=2)
            )
        return model

    @pytest.mark.parametrize(
        ("word", "mask", "on_text"),
        [("1", left(), False), ("-1", 1 - left(), False), ("2", left().mT, False), ("-2 + Text", 1 - left().mT, True)],
    )
    def test_a_row_acts_where_its_mask_says(self, files, word, mask, on_text):
        masks = torch.cat([left(), left().mT])
        rows = f"<lora:one:1>\n<lora:two:0.5:mask={word}:lbw=M*=0.5,default=1>"
        found = StrataLoraStack.execute(rows, model=files, masks=masks, apply="live").result
        first, second = loras_of(found[0])
        assert first.mask is None
        assert torch.equal(second.mask, mask)
        assert second.on_text == on_text
        assert ("fully on text tokens" in found[4]) == on_text
        again = StrataLoraStack.execute(reduced(read_rows(rows)), model=files, masks=masks, apply="live").result
        assert torch.equal(loras_of(again[0])[1].mask, mask)
        (_, handed) = read_stack(found[2])
        by_loader = StrataLoraLoader.execute("one", 0.0, 0.0, model=files, lora_stack=[handed]).result[0]
        assert torch.equal(loras_of(by_loader)[0].mask, mask)

    @pytest.mark.parametrize(
        ("word", "masks", "says"),
        [
            ("1", None, "nothing is connected to masks"),
            ("3", torch.ones(2, 8, 8), "chooses mask 3, and masks has 2 pictures"),
            ("0", torch.ones(8, 8), "takes the number of a mask, not '0'"),
            ("left", torch.ones(8, 8), "takes the number of a mask, not 'left'"),
            ("1", torch.full((8, 8), 3.0), "masks holds numbers outside 0 to 1"),
        ],
    )
    def test_what_no_mask_is_meant_by_is_said(self, files, word, masks, says):
        with pytest.raises(StrataError, match=says):
            StrataLoraStack.execute(f"<lora:two:1:mask={word}>", model=files, masks=masks)

    def test_with_warn_the_row_is_left_out(self, files):
        found = StrataLoraStack.execute(
            "<lora:one:1>\n<lora:two:1:mask=2>", model=files, masks=left(), on_problem="warn"
        )
        assert [entry[0] for entry in found.result[2]] == ["one"]
        assert "<lora:two:1:mask=2>: mask=2 chooses mask 2, and masks has 1 picture" in found.result[4]

    def test_a_prompt_has_no_masks(self, files):
        with pytest.raises(StrataError, match="mask=1 chooses a mask, and none is here"):
            StrataLoraFromPrompt.execute("<lora:two:1:mask=1>", model=files)
