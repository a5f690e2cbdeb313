"""Inspect LoRA: real files beside real models; what the picture, the report and the numbers say of what was planted in them."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strata.lora_math.errors import StrataError
from strata.lora_math.reading.training_facts import trainer, training_facts
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.inspect_lora import StrataLoraInspect
from strata.nodes.inspecting import draw
from strata.nodes.inspecting.picture_one import wrapped
from strata.nodes.inspecting.shapes import text_width
from strata.nodes.inspecting.themes import THEMES
from strata.nodes.inspecting.view import view
from strata.nodes.loader import NO_LORA
from strata.nodes.stack import StackEntry
from strata.tests.nodes.helpers import lora_makers, small_models


def inspect(stack=None, **given):
    """(image, report, numbers)."""
    image, report, numbers = StrataLoraInspect.execute(lora_stack=stack, **given).result
    return image, report, json.loads(numbers)


def unet(model, **more) -> dict:
    return lora_makers.kohya(lora_makers.unet_names(model), model.model.state_dict_shapes, **more)


@pytest.fixture(scope="module")
def sd15():
    model = small_models.sd15()
    model.model.state_dict_shapes = {key: tuple(t.shape) for key, t in model.model.state_dict().items()}
    return model


def dense(tensors: dict) -> dict[str, torch.Tensor]:
    """module -> the change, by the textbook."""
    found = {}
    for key, up in tensors.items():
        if key.endswith(".lora_up.weight"):
            module = key.removesuffix(".lora_up.weight")
            down, alpha = tensors[f"{module}.lora_down.weight"].double(), float(tensors[f"{module}.alpha"])
            found[module] = up.double().flatten(1) @ down.flatten(1) * alpha / down.shape[0]
    return found


@pytest.mark.parametrize("with_model", [False, True])
def test_its_numbers_are_those_of_the_dense_changes(with_model, sd15, lora_folder):
    tensors = unet(sd15, rank=4)
    name = lora_folder.save("a.safetensors", tensors)
    image, report, numbers = inspect(lora_name=name, model=sd15 if with_model else None)
    (one,) = numbers["loras"]
    changes = dense(tensors)
    total = math.sqrt(sum(float(d.square().sum()) for d in changes.values()))
    assert one["norm"] == pytest.approx(total, rel=1e-4)
    layers = {layer["module"]: layer for layer in one["layers"]}
    for module, change in list(changes.items())[::20]:
        values = torch.linalg.svdvals(change)
        assert layers[module]["sigma_1"] == pytest.approx(float(values[0]), rel=1e-4)
        assert layers[module]["first_share"] == pytest.approx(float(values[0] ** 2 / values.square().sum()), rel=1e-4)
    assert sum(block["share"] for block in one["blocks"].values()) == pytest.approx(1, rel=1e-4)
    assert {"IN04", "M00", "OUT03"} <= set(one["blocks"])
    assert f"rank {one['rank_99']} of 4 keeps 99 %" in report
    assert one["fits"] == ({"used": len(tensors), "total": len(tensors)} if with_model else None)
    assert image.shape[0] == 1 and image.shape[3] == 3 and 0 <= float(image.min()) < float(image.max()) <= 1


def test_relative_numbers_are_those_of_the_models_own_weights(sd15, lora_folder):
    tensors = {
        k: t for k, t in unet(sd15, rank=4).items() if "input_blocks_4" in k or "down_blocks_1_attentions_0" in k
    }
    name = lora_folder.save("a.safetensors", tensors)
    _, report, numbers = inspect(lora_name=name, model=sd15)
    (one,) = numbers["loras"]
    names, weights = lora_makers.unet_names(sd15), sd15.model.state_dict()
    changes = dense(tensors)
    own = sum(float(weights[names[module]].double().square().sum()) for module in changes)
    changed = sum(float(d.square().sum()) for d in changes.values())
    assert one["blocks"]["IN04"]["relative"] == pytest.approx(math.sqrt(changed / own), rel=0.05)  # from a sample
    module, ratio = next(iter(one["against_the_model"].items()))
    weight = weights[names[module]].double().flatten(1)
    expected = float(torch.linalg.svdvals(changes[module])[0] / torch.linalg.svdvals(weight)[0])
    assert ratio == pytest.approx(expected, rel=1e-3)
    assert f"Against the model: stretches {ratio:.3g} x as far as the model's own weight: {module}" in report


def test_two_spellings_of_one_lora_are_the_same_lora(sd15, lora_folder):
    tensors = unet(sd15, rank=4)
    names = lora_makers.unet_names(sd15)
    renamed = {}
    for key, tensor in tensors.items():
        module, _, rest = key.partition(".")
        renamed[f"{names[module].removesuffix('.weight')}.{rest}"] = tensor
    a, b = lora_folder.save("a.safetensors", tensors), lora_folder.save("b.safetensors", renamed)
    _, report, numbers = inspect([(a, 1.0, 1.0), (b, 0.5, 0.5)], model=sd15)
    found = numbers["together"]
    assert found["cosines"][0][1] == pytest.approx(1, abs=1e-6)
    assert found["overlap"][0][1] == pytest.approx(1, abs=1e-5)
    assert found["ratio"] == pytest.approx(1.5, rel=1e-5) and found["restores"] == 0.67
    assert "together 1.5 x as strong as the strongest alone: x 0.67 restores it" in report
    assert {block["kind"] for block in found["blocks"].values()} == {"reinforce"}


def test_opposites_cancel_and_strangers_leave_each_other_alone(sd15, lora_folder):
    tensors = unet(sd15, rank=4)
    a = lora_folder.save("a.safetensors", tensors)
    turned = {k: -t if "lora_up" in k else t for k, t in tensors.items()}
    b = lora_folder.save("b.safetensors", turned)
    c = lora_folder.save("c.safetensors", unet(sd15, rank=4, seed=9))
    _, report, numbers = inspect([(a, 1.0, 1.0), (b, 1.0, 1.0)])
    assert numbers["together"]["ratio"] == pytest.approx(0, abs=1e-4)
    assert "Where they work against each other: " in report
    _, _, numbers = inspect([(a, 1.0, 1.0), (c, 1.0, 1.0)])
    assert numbers["together"]["cosines"][0][1] == pytest.approx(0, abs=0.05)
    assert numbers["together"]["ratio"] == pytest.approx(math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("with_model", [False, True])
def test_strengths_and_block_weights_count(with_model, sd15, lora_folder):
    a = lora_folder.save("a.safetensors", unet(sd15, rank=4))
    b = lora_folder.save("b.safetensors", unet(sd15, rank=4, seed=9))
    spec = BlockSpec("IN=0, M=0, OTHER=0, default=1")
    stack = [StackEntry(a, 2.0, 0.0, spec), StackEntry(b, -1.0, 1.0)]
    _, _, numbers = inspect(stack, model=sd15 if with_model else None)
    norms = numbers["together"]["norms"]
    by_block = numbers["loras"][0]["blocks"]
    out = math.sqrt(sum(block["norm"] ** 2 for name, block in by_block.items() if name.startswith("OUT")))
    assert norms[0] == pytest.approx(2 * out, rel=1e-4)
    assert norms[1] == pytest.approx(numbers["loras"][1]["norm"], rel=1e-4)


def test_a_lora_of_another_model_and_nothing_in_common_are_said(sd15, lora_folder):
    a = lora_folder.save("a.safetensors", unet(sd15))
    flux = {
        f"transformer.single_transformer_blocks.{i}.attn.to_q.lora_{side}.weight": torch.ones(shape)
        for i in range(3)
        for side, shape in (("A", (2, 3072)), ("B", (3072, 2)))
    }
    b = lora_folder.save("flux.safetensors", flux)
    _, report, numbers = inspect([(a, 1.0, 1.0), (b, 1.0, 1.0)])
    assert numbers["together"]["cosines"][0][1] is None and numbers["together"]["compared"] == 0
    assert "no layer is in two of these LoRAs under one name" in report
    _, report, numbers = inspect(lora_name=b, model=sd15)
    assert numbers["loras"][0]["fits"] == {"used": 0, "total": len(flux)}
    assert "Fit: 0 of 6 tensors" in report


def test_epochs_are_a_drift(sd15, lora_folder):
    last = unet(sd15, rank=4)
    others = unet(sd15, rank=4, seed=9)
    names = [
        lora_folder.save(f"cat-{epoch:06}.safetensors", {k: last[k] * t + others[k] * (1 - t) for k in last})
        for epoch, t in ((20, 0.8), (10, 0.3))
    ]
    names.append(lora_folder.save("cat.safetensors", last))
    _, report, numbers = inspect([(name, 1.0, 1.0) for name in names])
    assert numbers["together"]["epochs"] == [["cat-000010.safetensors", "cat-000020.safetensors", "cat.safetensors"]]
    cosines = [numbers["together"]["cosines"][at][2] for at in (1, 0, 2)]
    assert cosines == sorted(cosines) and cosines[-1] == 1
    assert "Epochs of one training, cosine with the last: cat-000010" in report


def test_damaged_and_dead_layers_are_counted_and_left_out(sd15, lora_folder):
    tensors = unet(sd15, rank=4)
    ups = [key for key in tensors if key.endswith("lora_up.weight")]
    tensors[ups[0]][0] = math.nan
    tensors[ups[1]].zero_()
    name = lora_folder.save("a.safetensors", tensors)
    _, report, numbers = inspect(lora_name=name, model=sd15)
    (one,) = numbers["loras"]
    assert (one["broken"], one["dead"]) == (1, 1) and math.isfinite(one["norm"])
    assert "Damaged: 1 layers" in report and "Dead: 1 layers" in report
    other = lora_folder.save("b.safetensors", unet(sd15, seed=9))
    _, _, numbers = inspect([(name, 1.0, 1.0), (other, 1.0, 1.0)], model=sd15)
    assert math.isfinite(numbers["together"]["cosines"][0][1])


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [220, 300, 720])
@pytest.mark.parametrize("count", [1, 3])
def test_everything_that_is_drawn_lies_within_the_picture(count, width, theme, sd15, lora_folder):
    names = [lora_folder.save(f"{'a long name of it ' * 6}{i}.safetensors", unet(sd15, seed=i)) for i in range(count)]
    found = view([StackEntry(name, 0.7, 0.3) for name in names])
    picture = found.picture(width)
    for shape in picture.shapes:
        assert shape.role == "none" or shape.role in THEMES[theme]
        points = shape.points or [(shape.x, shape.y), (shape.x + shape.w, shape.y + shape.h)]
        for x, y in points:
            assert -1 <= x <= picture.width + 1 and 0 <= y <= picture.height, shape
    image = draw.image_of(picture, theme)
    assert tuple(image.shape) == (1, round(picture.height * draw.SCALE), width * draw.SCALE, 3)
    back = torch.tensor([int(THEMES[theme]["back"][i : i + 2], 16) for i in (1, 3, 5)]) / 255
    frame = torch.cat([image[0, :, -4:].flatten(0, 1), image[0, -4:].flatten(0, 1)])
    assert torch.allclose(frame, back.expand_as(frame), atol=1e-3), "something runs over the edge"


FACTS = {
    "ss_network_module": "networks.lora",
    "ss_base_model_version": "sd_v1.5",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=[0.9, 0.99])",
    "ss_lr_scheduler": "cosine_with_restarts",
    "ss_dataset_dirs": json.dumps({"10_a portrait of ohwx woman": {"img_count": 25, "n_repeats": 10}}),
    "ss_steps": "1200",
}


@pytest.mark.parametrize("width", [220, 400, 720])
def test_no_sentence_is_cut(width, sd15, lora_folder):
    """At any width: those of one LoRA with a spike and training facts, and those of two that are a stack."""
    tensors = unet(sd15, rank=4)
    module = next(key for key in tensors if "transformer_blocks" in key).partition(".")[0]
    tensors[f"{module}.lora_up.weight"][:, 0] *= 300
    one = lora_folder.save("one.safetensors", tensors, FACTS)
    two = lora_folder.save("two.safetensors", unet(sd15, seed=2))
    for names in ([one], [one, two]):
        picture = view([StackEntry(name, 1.0, 1.0) for name in names]).picture(width)
        told = [shape.text for shape in picture.shapes if shape.kind == "text"]
        assert [text for text in told if text.endswith("...")] == []
        if names == [one]:
            whole = "".join("".join(told).split())
            assert module in whole, "the name of the layer with the spike goes on in the next line"
            assert "".join(FACTS["ss_optimizer"].split()) in whole


@given(st.text(max_size=300), st.integers(1, 8), st.sampled_from([20.0, 90.0, 400.0]))
def test_lines_are_the_whole_text(text, most, room):
    lines = wrapped(text, 12, room, most)
    assert len(lines) <= most
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines[:-1]:
        assert text_width(line, 12) <= room or len(line) == 1


def test_auto_is_dark_without_an_editor(sd15, lora_folder):
    name = lora_folder.save("a.safetensors", unet(sd15))
    pictures = {theme: inspect(lora_name=name, theme=theme)[0] for theme in ("auto", "dark", "light")}
    assert torch.equal(pictures["auto"], pictures["dark"])
    assert not torch.equal(pictures["auto"], pictures["light"])


def test_the_picture_offers_what_the_report_says(sd15, lora_folder):
    a, b = (lora_folder.save(f"{n}.safetensors", unet(sd15, seed=1)) for n in "ab")
    acts = [shape.act for shape in view([StackEntry(a, 1.0, 1.0)]).picture(400).shapes if shape.act]
    assert acts and all(act == {"do": "save", "rank": 4} for act in acts)
    acts = [shape.act for shape in view([StackEntry(n, 1.0, 1.0) for n in (a, b)]).picture(400).shapes if shape.act]
    assert acts and all(act == {"do": "scale", "factor": 0.5} for act in acts)


def test_pillow_without_freetype_draws_too(sd15, lora_folder, monkeypatch):
    from PIL import ImageFont

    font = (
        ImageFont.load_default_imagefont() if hasattr(ImageFont, "load_default_imagefont") else ImageFont.load_default()
    )
    monkeypatch.setattr(draw, "_font", lambda pixels, plain: font)
    name = lora_folder.save("\u732b.safetensors", unet(sd15))
    image = draw.image_of(view([StackEntry(name, 1.0, 1.0)]).picture(300), "dark")
    assert float(image.std()) > 0.01


@pytest.mark.parametrize("name", ["", " ", NO_LORA])
def test_nothing_to_look_at_is_said(name):
    assert StrataLoraInspect.validate_inputs(name) is True
    with pytest.raises(StrataError, match="Connect a LORA_STACK, or choose a LoRA"):
        StrataLoraInspect.execute(lora_name=name)


def test_a_file_that_is_not_there_is_said_before_a_run(lora_folder):
    assert "'gone' is not in your loras folders" in StrataLoraInspect.validate_inputs("gone")


def test_many_loras_are_cut_to_the_first(sd15, lora_folder):
    name = lora_folder.save("a.safetensors", {k: t for k, t in unet(sd15).items() if "middle_block" in k})
    _, report, numbers = inspect([(name, 1.0, 1.0)] * 20)
    assert len(numbers["loras"]) == 16
    assert "only the first 16 of 20 LoRAs are looked at" in report


# What the header tells


def test_training_facts_are_those_of_the_header():
    header = {
        "ss_steps": "1200",
        "ss_learning_rate": "1e-4",
        "ss_optimizer": "None",
        "ss_dataset_dirs": json.dumps({"10_cat": {"img_count": 25, "n_repeats": 10}, "dogs": {}}),
        "ss_network_module": "networks.lora",
        "modelspec.resolution": "1024x1024",
    }
    assert training_facts(header) == [
        ("network", "networks.lora"),
        ("steps", "1200"),
        ("resolution", "1024x1024"),
        ("learning rate", "1e-4"),
        ("dataset", "10_cat: 25 pictures x 10"),
        ("dataset", "dogs"),
    ]
    assert trainer(header) == "sd-scripts (kohya)"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        "{" * 9,
        '{"a": 5}',
        '{"a": {"img_count": -1, "n_repeats": true}}',
        "x" * 5_000_000,
    ],
)
def test_odd_headers_tell_nothing_and_break_nothing(value):
    facts = training_facts({"ss_dataset_dirs": value, "ss_steps": value})
    assert all(len(text) <= 140 for _, text in facts)
    assert not any("pictures" in text for _, text in facts)
