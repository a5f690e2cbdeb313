"""LoRAs in parts of the picture, against a model whose layers add the changes by mask in plain PyTorch, with places written by hand."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.model_management
import comfy.sample
import pytest
import torch
from comfy.controlnet import ControlBase

from strata.lora_math.errors import StrataError
from strata.lora_math.schedule import parse
from strata.nodes.comfy import patch
from strata.nodes.comfy.live import LiveLora, attach, loras_of
from strata.nodes.comfy.live_layers import layers_of
from strata.nodes.comfy.live_regions import Regions
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import adapter_makers, lora_makers, masking, sampling
from strata.tests.nodes.helpers.masking import left, with_masks

LATENT = 1e-4
TEXT = 7  # tokens of the small prompts
# Layers that compute text, or one vector for the whole picture: the mean of the mask.
NOWHERE = (
    "txt",
    "text",
    "context",
    "cap_",
    "time",
    "attn2.to_k",
    "attn2.to_v",
    "cross_attn.k",
    "cross_attn.v",
    "add_",
    "to_add_out",
)
NOWHERE += (
    "modulation",
    "adaLN",
    "mod.",
    "t_embedder",
    "y_embedder",
    "vector_in",
    "guidance_in",
    "label_emb",
    "emb_layers",
    "norm_out",
)


models = pytest.fixture(scope="module")(masking.models)


def at(mask, size):
    return torch.nn.functional.interpolate(mask[:, None], size, mode="bilinear", antialias=True)[:, 0]


# Of those, the layers of text alone.
ON_TEXT = (
    "txt",
    "text",
    "context",
    "cap_",
    "attn2.to_k",
    "attn2.to_v",
    "cross_attn.k",
    "cross_attn.v",
    "add_",
    "to_add_out",
)


def on(family: str, path: str, y: torch.Tensor, mask: torch.Tensor, on_text: bool) -> torch.Tensor | float:
    """What multiplies the change of a layer's output: a latent of 8 x 8, or of 8 x 12."""
    height, width = mask.shape[-2:]
    share = mask.mean((1, 2))
    of_text = torch.ones_like(share) if on_text else share
    if on_text and y.ndim == 3 and y.shape[1] > 1 and any(part in f"{path}." for part in ON_TEXT):
        return 1.0
    if y.ndim == 2 or any(part in f"{path}." for part in NOWHERE):
        return share.reshape(-1, *[1] * (y.ndim - 1))
    if y.ndim == 4:
        return at(mask, y.shape[-2:])[:, None]
    if y.ndim == 5:
        return at(mask, y.shape[-2:])[:, None, None]
    if family in ("SD1.5", "SDXL"):
        levels = [(-(-height // 2**n), -(-width // 2**n)) for n in range(4)]
        (size,) = [size for size in levels if size[0] * size[1] == y.shape[1]]
        return at(mask, size).flatten(1)[..., None]
    picture = at(mask, (height // 2, width // 2)).flatten(1)
    if family == "Wan":
        picture = picture.repeat(1, 2)  # two frames
    rest = lambda count, each=share: each[:, None].expand(-1, count)  # noqa: E731
    if family == "Z-Image" and "x_embedder" not in path:  # text and picture are each filled up to 32 tokens
        picture = torch.cat([picture, rest(32 - picture.shape[1])], 1)
    if family == "FLUX.1" and "single_blocks" in path:
        picture = torch.cat([rest(TEXT, of_text), picture], 1)
    if family == "Z-Image" and path.startswith(("layers.", "final_layer.")):
        picture = torch.cat([rest(32, of_text), picture], 1)
    assert picture.shape[1] == y.shape[1], path
    return picture[..., None]


def reference(model, family: str, masked: list, sample, on_text: bool | tuple[bool, ...] = False):
    """sample(model) while each layer adds, for each (changes, mask), its mask times the dense change. on_text: of all, or of each."""
    choices = on_text if isinstance(on_text, tuple) else (on_text,) * len(masked)
    handles, used = [], set()
    layers = layers_of(model.model)
    dense: dict[str, list] = {}
    for (changes, mask), own in zip(masked, choices, strict=True):
        for key, terms in changes.items():
            path, _, parameter = key.rpartition(".")
            weight = getattr(layers[path], parameter)
            change = torch.zeros_like(weight, dtype=torch.float64)
            for coefficient, adapter in terms:
                change += coefficient * adapter.delta(weight.detach().double(), 1.0, torch.float64)
            dense.setdefault(path, []).append((parameter, change.to(weight.dtype), mask, own))

    def hook(path):
        def add(module, args, y):
            x = args[0]
            used.add(path)
            for parameter, change, mask, own in dense[path]:
                if parameter == "bias":
                    more = change if y.ndim == 3 or y.ndim == 2 else change.reshape(-1, *[1] * (y.ndim - 2))
                elif isinstance(module, torch.nn.Linear):
                    more = torch.nn.functional.linear(x, change)
                else:
                    more = module._conv_forward(x, change, None)
                y = y + on(family, path.removeprefix("diffusion_model."), y, mask, own) * more
            return y

        return add

    try:
        for path in dense:
            handles.append(layers[path].register_forward_hook(hook(path)))
        result = sample(model)
    finally:
        for handle in handles:
            handle.remove()
    assert used
    return result


def assert_same(found, expected, plain, everywhere):
    change = (expected - plain).norm()
    assert change > 1e-3 * plain.norm() and (expected - everywhere).norm() > 0.05 * change, (
        "the mask does next to nothing here"
    )
    assert (found - expected).norm() < LATENT * expected.norm()
    assert (found - expected).norm() < 2e-3 * change


@pytest.mark.parametrize("family", sampling.MODELS)
def test_two_loras_side_by_side_on_every_architecture(models, family):
    """One that is a product at the left, one that is none at the right, in one pass."""
    model, one, other = models(family)
    masked = [(one, left()), (other, 1 - left())]
    sample = lambda m: sampling.sample(m, family)  # noqa: E731
    expected, plain = reference(model, family, masked, sample), sample(model)
    everywhere = sample(with_masks(model, [(one, None), (other, None)]))
    assert_same(sample(with_masks(model, masked)), expected, plain, everywhere)
    assert torch.equal(sample(model), plain)


@pytest.mark.parametrize("family", sampling.MODELS)
def test_text_tokens_without_the_mask_by_choice(models, family):
    model, one, other = models(family)
    masked = [(one, left()), (other, 1 - left())]
    sample = lambda m: sampling.sample(m, family)  # noqa: E731
    expected, plain = reference(model, family, masked, sample, on_text=True), sample(model)
    found, by_share = sample(with_masks(model, masked, on_text=True)), sample(with_masks(model, masked))
    assert (expected - plain).norm() > 1e-3 * plain.norm()
    assert (found - expected).norm() < LATENT * expected.norm()
    assert (expected - by_share).norm() > 50 * (found - expected).norm(), (
        "text without the mask does next to nothing here"
    )


@pytest.mark.parametrize("family", ["SD1.5", "FLUX.1", "Z-Image"])
def test_each_lora_has_its_own_choice_of_text_tokens(models, family):
    model, one, other = models(family)
    masked = [(one, left()), (other, 1 - left())]
    sample = lambda m: sampling.sample(m, family)  # noqa: E731
    expected = reference(model, family, masked, sample, on_text=(True, False))
    both = reference(model, family, masked, sample, on_text=True)
    found = sample(with_masks(with_masks(model, masked[:1], on_text=True), masked[1:]))
    assert (found - expected).norm() < LATENT * expected.norm()
    assert (both - expected).norm() > 50 * (found - expected).norm()


def test_under_a_black_mask_a_lora_still_acts_on_unmasked_text(models, lora_folder):
    model, _, _ = models("SD1.5")
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model, alpha=64.0, dtype=torch.float32))
    sample = lambda m: sampling.sample(m, "SD1.5")  # noqa: E731
    black = torch.zeros(1, 8, 8)
    load = lambda **settings: StrataLoraLoader.execute(name, 1.0, 0.0, model=model, **settings).result[0]  # noqa: E731
    (lora,) = loras_of(load(mask=left()))
    expected, plain = reference(model, "SD1.5", [(lora.changes, black)], sample, on_text=True), sample(model)
    assert (expected - plain).norm() > 1e-3 * plain.norm()
    assert (sample(load(mask=black, text_tokens="unmasked")) - expected).norm() < LATENT * expected.norm()
    assert torch.equal(sample(load(mask=black)), plain)


@pytest.mark.parametrize("family", ["SD1.5", "FLUX.1", "Z-Image", "Wan"])
def test_the_loader_takes_the_mask_off_text_tokens_by_choice(models, lora_folder, family):
    """A file through the node: unmasked is the reference with text at full strength; masked, null and left out are the one by share."""
    model, _, _ = models(family)
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model, alpha=64.0, dtype=torch.float32))
    sample = lambda m: sampling.sample(m, family)  # noqa: E731

    def loaded(**settings):
        return StrataLoraLoader.execute(name, 1.0, 0.0, model=model, mask=left(), **settings).result

    fully, by_share = loaded(text_tokens="unmasked"), loaded()
    changes = [(lora.changes, left()) for lora in loras_of(by_share[0])]
    plain, found, shared = sample(model), sample(fully[0]), sample(by_share[0])
    expected = reference(model, family, changes, sample, on_text=True)
    assert (expected - plain).norm() > 1e-3 * plain.norm()
    assert (found - expected).norm() < LATENT * expected.norm()
    assert (expected - shared).norm() > 50 * (found - expected).norm()
    assert "Mask: acts where it is white; fully on text tokens;" in fully[3]
    for same in ({"text_tokens": "masked"}, {"text_tokens": None}):
        assert torch.equal(sample(loaded(**same)[0]), shared)
    # Another loader applies what this one hands on.
    handed = StrataLoraLoader.execute(name, 0.0, 0.0, model=model, lora_stack=fully[4][:1]).result[0]
    assert torch.equal(sample(handed), found)


def sample_of(family, shape, cfg=3.0, positive=None, **options):
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    prompts = positive or sampling.prompt(family, 1), sampling.prompt(family, 2)
    return lambda model: comfy.sample.sample(
        model, start, 2, cfg, "euler", "simple", *prompts, torch.zeros_like(start), disable_pbar=True, seed=3, **options
    )


@pytest.mark.parametrize("family", ["SD1.5", "FLUX.1"])
def test_any_size_and_a_mask_for_each_picture_of_a_batch(models, family):
    """Of another size and shape than the latent, whose own it is brought to first."""
    model, one, other = models(family)
    channels = sampling.SHAPES[family][0][1]
    sample = sample_of(family, (2, channels, 8, 12))
    large = torch.cat([left(80, 60), 1 - left(80, 60)])
    of_latent = at(large, (8, 12))
    rows = of_latent.repeat(2, 1, 1)  # both prompts in one call
    expected = reference(model, family, [(one, rows), (other, 1 - rows)], sample)
    found = sample(with_masks(model, [(one, large), (other, 1 - large)]))
    assert_same(found, expected, sample(model), sample(with_masks(model, [(one, None), (other, None)])))


def test_areas_of_one_size(models):
    """Two prompts for two halves; the LoRA's mask is the left one. ComfyUI runs each on its own crop."""
    model, one, _ = models("SD1.5")
    areas = [*sampling.prompt("SD1.5", 5, area=(8, 4, 0, 0)), *sampling.prompt("SD1.5", 6, area=(8, 4, 0, 4))]
    sample = sample_of("SD1.5", (1, 4, 8, 8), cfg=1.0, positive=areas)
    (at_left, _), _ = areas
    seen = set()

    def run(apply_model, args):
        outputs = []
        for number in range(len(args["cond_or_uncond"])):
            part = lambda v, n=number: v.chunk(len(args["cond_or_uncond"]))[n] if isinstance(v, torch.Tensor) else v  # noqa: E731
            c = {name: part(value) for name, value in args["c"].items()}
            acts = torch.equal(c["c_crossattn"], at_left)
            seen.add(acts)
            clone = model.clone()
            patch.add(clone, one if acts else {})
            comfy.model_management.load_models_gpu([clone])
            outputs.append(apply_model(part(args["input"]), part(args["timestep"]), **c))
        return torch.cat(outputs)

    mask = (torch.arange(8) < 4).float().expand(1, 8, 8)
    clone = model.clone()
    clone.set_model_unet_function_wrapper(run)
    expected = sample(clone)
    assert seen == {True, False}
    assert_same(
        sample(with_masks(model, [(one, mask)])), expected, sample(model), sample(with_masks(model, [(one, None)]))
    )


class Control(ControlBase):
    """Adds the same to the middle of the UNet at every step: a ControlNet by all that ComfyUI's sampler sees of it."""

    def __init__(self, residual: torch.Tensor):
        super().__init__()
        self.residual, self.calls = residual, 0

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.calls += 1
        return {"input": [], "middle": [self.residual.repeat(len(x_noisy), 1, 1, 1)], "output": []}


def test_with_a_controlnet(models):
    model, one, other = models("SD1.5")
    masked, shapes = [(one, left()), (other, 1 - left())], []
    middle = model.model.diffusion_model.middle_block[-1]
    handle = middle.register_forward_hook(lambda module, args, y: shapes.append(y.shape[1:]))
    without = sampling.sample(model, "SD1.5")
    handle.remove()
    control = Control(200 * torch.randn(1, *shapes[0], generator=torch.Generator().manual_seed(4)))
    positive = sampling.prompt("SD1.5", 1, control=control, control_apply_to_uncond=True)
    sample = lambda m: sampling.sample(m, "SD1.5", positive=positive)  # noqa: E731
    expected, plain = reference(model, "SD1.5", masked, sample), sample(model)
    assert control.calls and (plain - without).norm() > 1e-3 * plain.norm(), "the ControlNet does next to nothing"
    everywhere = sample(with_masks(model, [(one, None), (other, None)]))
    assert_same(sample(with_masks(model, masked)), expected, plain, everywhere)


def test_biases_and_what_reads_the_weight(models):
    model, _, _ = models("SD1.5")
    sample = lambda m: sampling.sample(m, "SD1.5")  # noqa: E731
    changes = adapter_makers.everywhere(model, adapter_makers.ia3)
    expected = reference(model, "SD1.5", [(changes, left())], sample)
    everywhere = sample(with_masks(model, [(changes, None)]))
    assert_same(sample(with_masks(model, [(changes, left())])), expected, sample(model), everywhere)
    doras = adapter_makers.everywhere(model, adapter_makers.dora)
    expected = reference(model, "SD1.5", [(doras, left())], sample)
    assert_same(
        sample(with_masks(model, [(doras, left())])),
        expected,
        sample(model),
        sample(with_masks(model, [(doras, None)])),
    )
    with pytest.raises(StrataError, match=r"0\.safetensors leaves before it, and that one has a mask"):
        sample(with_masks(model, [(changes, left()), (doras, None)]))


def test_white_is_everywhere_black_nowhere_and_two_halves_are_one(models):
    model, one, _ = models("Z-Image")
    sample = lambda m: sampling.sample(m, "Z-Image")  # noqa: E731
    everywhere = sample(with_masks(model, [(one, None)]))
    white = sample(with_masks(model, [(one, torch.ones(1, 30, 50))]))
    assert (white - everywhere).norm() < 1e-5 * everywhere.norm()
    black = sample(with_masks(model, [(one, torch.zeros(1, 30, 50))]))
    assert (black - sample(model)).norm() < 1e-5 * everywhere.norm()
    halves = sample(with_masks(model, [(one, left()), (one, 1 - left())]))
    assert (halves - everywhere).norm() < 1e-4 * everywhere.norm()


def test_a_mask_and_a_strength_that_varies(models):
    """Over time and by prompt, on a batch: two halves of it are the whole."""
    model, one, _ = models("SD1.5")
    sample = sample_of("SD1.5", (2, 4, 8, 8))
    varies = {"keyframes": parse("0.2@0%, 1@100%"), "prompts": (1.0, 0.3)}

    def with_both(*masks):
        clone = model.clone()
        for mask in masks:
            attach(clone, LiveLora(one, "one", mask=mask, **varies))
        return sample(clone)

    whole = with_both(None)
    assert (whole - sample(model)).norm() > 1e-3 * whole.norm()
    assert (with_both(left(), 1 - left()) - whole).norm() < 1e-4 * whole.norm()
    assert (with_both(left()) - whole).norm() > 1e-3 * whole.norm()


def test_a_layer_whose_places_are_unknown_is_said(models):
    model, _, _ = models("SD3")
    regions = Regions(torch.full((2, 1, 8, 8), 0.5), model.model, {"context": torch.zeros(2, TEXT, 96)})
    path = "diffusion_model.joint_blocks.0.x_block.attn.qkv"
    assert regions.of(path, torch.zeros(2, 16, 5), False).shape == (1, 2, 16)
    assert regions.of(path, torch.zeros(4, 16, 5), False).shape == (1, 4, 16)
    assert regions.of(path, torch.zeros(2, 5, 3, 7), True).shape == (1, 2, 3, 7)
    for path in ("joint_blocks.0.context_block.attn.qkv", "joint_blocks.0.x_block.adaLN_modulation.1"):
        shape = (2, TEXT, 5) if "context" in path else (2, 5)
        assert torch.equal(
            regions.of(path, torch.zeros(shape), False), torch.full((1, 2, 1) if len(shape) == 3 else (1, 2), 0.5)
        )
    assert regions.unplaced == set()
    # Fewer tokens, of a merger; channels as a linear layer has them in the last place of four; a convolution along one axis.
    for number, (shape, is_conv) in enumerate(
        [((2, 15, 5), False), ((2, 4, 4, 5), False), ((2, 16, 5), True), ((3, 16, 5), False)]
    ):
        found = regions.of(f"{number}", torch.zeros(shape), is_conv)
        assert found is None if shape[0] == 3 else (found == 0.5).all()
    assert regions.unplaced == set("0123")


def test_references_stand_behind_the_picture():
    """FLUX's and Qwen-Image's: [text,] picture, reference. There the LoRA acts by the mask's mean."""
    for kind, path, before in (
        ("flux", "single_blocks.1.linear1", TEXT),
        ("flux", "double_blocks.1.img_attn.qkv", 0),
        ("qwen_image", "transformer_blocks.0.attn.to_q", 0),
    ):
        config = SimpleNamespace(unet_config={"image_model": kind})
        model = SimpleNamespace(model_config=config, diffusion_model=SimpleNamespace(patch_size=2))
        context, references = torch.zeros(1, TEXT, 5), [torch.zeros(1, 16, 8, 8)]
        regions = Regions(left()[:, None], model, {"context": context, "ref_latents": references})
        found = regions.of(f"diffusion_model.{path}", torch.zeros(1, before + 32, 5), False)
        assert torch.equal(found[0, 0, before : before + 16], at(left(), (4, 4)).flatten())
        assert (torch.cat([found[0, 0, :before], found[0, 0, before + 16 :]]) == left().mean()).all()
