"""The trained toy, measured on the files that are shipped: what its pictures, and with them every picture in the docs, are worth.

"Nearest" is by the root mean square of colours, among all original drawings. A style is measured on subjects that its LoRA never saw.
"""

import json

import folder_paths
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from strata.devtools.model_cache import TOY_WEIGHTS, toy_models
from strata.devtools.toy import clip, data, flux
from strata.devtools.toy.loras import FRENCH, seen_and_unseen
from strata.devtools.toy.measure import distances, recognised, share
from strata.devtools.toy.studio import Studio
from strata.devtools.toy.styles import STYLES
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack

LIMIT = 25 * 1000**2  # bytes of weights in this repository
# The last is a T-LoRA.
STYLE_LORAS = {
    "picture_book": "picture book",
    "blueprint": "blueprint",
    "moonlight": "moonlight",
    "raspberry": "raspberry",
}
PAIR = "strata_toy_meadow_high_noise", "strata_toy_meadow_low_noise"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder for LoRAs that a test makes."""
    return tmp_path_factory.mktemp("loras")


@pytest.fixture(scope="module")
def models(tmp_path_factory, made):
    """The toy's models folder, and its LoRAs among ComfyUI's; what a T-LoRA began with is kept in a user directory of its own."""
    folder = toy_models(print)
    user = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path_factory.mktemp("user")))
    known = folder_paths.folder_names_and_paths["loras"]
    folder_paths.folder_names_and_paths["loras"] = ([str(folder / "loras"), str(made)], known[1])
    folder_paths.filename_list_cache.pop("loras", None)
    yield folder
    folder_paths.set_user_directory(user)
    folder_paths.folder_names_and_paths["loras"] = known
    folder_paths.filename_list_cache.pop("loras", None)


@pytest.fixture(scope="module")
def studio(models):
    return Studio.open(models)


@pytest.fixture(scope="module")
def drawings():
    return data.originals()


@pytest.fixture(scope="module")
def base(studio):
    """What the base model draws for each unseen subject."""
    return studio.draw(seen_and_unseen()[1])


def with_lora(studio, name, strength_model=1.0, strength_clip=0.0):
    node = StrataLoraLoader.execute(
        f"strata_toy_{name}.safetensors", strength_model, strength_clip, studio.model, studio.clip
    )
    model, text_encoder = node.result[:2]
    return studio.having(model, text_encoder if strength_clip else None)


def of(drawings, names):
    return np.stack([drawings[name] for name in names])


def test_what_is_shipped_is_small():
    assert sum(file.stat().st_size for file in TOY_WEIGHTS.rglob("*") if file.is_file()) <= LIMIT


def test_the_text_encoder_is_the_same_everywhere():
    """Whoever trained the image model had these very numbers: the sum of the bits of the first that are drawn."""
    source = np.random.PCG64(clip.SEED)
    first = clip.drawn((4096, 768), clip.TOKEN, source)
    assert first.dtype == torch.float16
    assert first.view(torch.int16).long().sum().item() == -5501009077


def test_our_flux_is_comfyuis(studio):
    """What was trained is what ComfyUI runs: the same weights, the same numbers."""
    ours = flux.Flux()
    theirs = studio.model.model.diffusion_model
    ours.load_state_dict({name.replace("_norm.weight", "_norm.scale"): t for name, t in theirs.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    x, words, pooled = (torch.randn(shape, generator=generator) for shape in ((2, 16, 16, 16), (2, 16, 768), (2, 768)))
    t = torch.tensor([0.2, 0.9])
    with torch.no_grad():
        assert torch.allclose(ours(x, t, words, pooled), theirs(x, t, words, y=pooled), rtol=0, atol=1e-4)


def test_a_prompt_gives_its_drawing(studio, drawings):
    names = list(data.captions())[:100]
    made = studio.draw(names)
    originals = of(drawings, data.captions())
    right = recognised(made, originals, np.arange(len(names)))
    assert right.mean() >= 0.97, [name for name, ok in zip(names, right, strict=True) if not ok]


@pytest.mark.parametrize("name", STYLE_LORAS)
def test_a_style_moves_what_it_never_saw(studio, drawings, base, name):
    unseen = seen_and_unseen()[1]
    plain = of(drawings, unseen)
    styled = np.stack([STYLES[STYLE_LORAS[name]](drawing) for drawing in plain])
    full = with_lora(studio, name, 1.0).draw(unseen)
    half = with_lora(studio, name, 0.5).draw(unseen)
    each = np.arange(len(unseen))
    nearer = distances(full, styled)[each, each] < distances(full, plain)[each, each]
    assert nearer.mean() >= 0.8, [subject for subject, ok in zip(unseen, nearer, strict=True) if not ok]
    # The base model is nearer to the plain drawing everywhere, so that the LoRA did it.
    assert (distances(base, plain)[each, each] < distances(base, styled)[each, each]).all()
    far = [distances(made, styled)[each, each] for made in (base, half, full)]
    assert far[0].mean() > far[1].mean() > far[2].mean()
    assert np.mean((far[0] > far[1]) & (far[1] > far[2])) >= 0.8
    assert 0.1 < np.median(share(half, plain, styled)) < 0.9


@pytest.mark.parametrize("name", [*STYLE_LORAS, "robot"])
def test_strength_zero_is_the_base(studio, name):
    prompts = ["fox", "castle"]
    node = StrataLoraLoader.execute(f"strata_toy_{name}.safetensors", 0.0, 0.0, studio.model, studio.clip)
    at_zero = Studio(*node.result[:2], studio.vae, {})
    assert np.array_equal(at_zero.draw(prompts), studio.draw(prompts))


def test_a_subject_is_learned(studio, drawings):
    originals = np.stack(list(drawings.values()))
    asked = [data.SUBJECT] * 8
    last = np.full(8, len(originals) - 1)
    robot = with_lora(studio, "robot")
    assert recognised(robot.draw(asked, seed=1), originals, last).mean() >= 0.9


def test_a_subject_leaves_the_others(studio, drawings):
    """And without its LoRA the word does not mean it."""
    originals = np.stack(list(drawings.values()))
    asked, robot = [data.SUBJECT] * 8, with_lora(studio, "robot")
    assert not recognised(studio.draw(asked, seed=1), originals, np.full(8, len(originals) - 1)).any()
    others = list(data.captions())[::2]
    made, before = robot.draw(others), studio.draw(others)
    nearest = [distances(part, originals).argmin(1) for part in (made, before)]
    assert np.mean(nearest[0] == nearest[1]) >= 0.9


def test_a_t_lora_comes_to_its_style_by_its_mask(studio, models, made, drawings):
    """One of its rank columns, which is what acts at the most noise, is not the style, and all of them always is another picture."""
    file = models / "loras" / "strata_toy_raspberry.safetensors"
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    args = json.loads(about["ss_network_args"])
    assert (args["algo"], args["tlora_min_rank"], about["ss_network_dim"]) == ("tlora", "1", "8")
    for ranks in ("1", "8"):
        changed = {**args, "tlora_min_rank": ranks, "tlora_alpha": "1000"}
        header = {**about, "ss_network_args": json.dumps(changed)}
        save_file(load_file(file), made / f"strata_toy_ranks_{ranks}.safetensors", header)
    folder_paths.filename_list_cache.pop("loras", None)
    some = seen_and_unseen()[1][::6]
    styled = np.stack([STYLES["raspberry"](drawing) for drawing in of(drawings, some)])
    each = np.arange(len(some))
    one, trained, every = (with_lora(studio, name).draw(some) for name in ("ranks_1", "raspberry", "ranks_8"))
    assert (distances(trained, styled)[each, each] < distances(one, styled)[each, each]).all()
    assert (distances(trained, every)[each, each] > 1).all()


def on_a_pair(studio, strengths):
    model, *_, low = StrataLoraStack.execute(
        f"<lora:{PAIR[0]}:{strengths}>", model=studio.model, model_low=studio.model
    ).result
    return studio.having(model, low=low)


def test_each_half_of_a_pair_acts_on_its_half_of_the_sampling(studio, drawings):
    """Bit for bit as each file alone by a loader, and both are needed for the style."""
    unseen = seen_and_unseen()[1][::14]
    plain = of(drawings, unseen)
    styled = np.stack([STYLES["meadow"](drawing) for drawing in plain])
    each = np.arange(len(unseen))
    base, (high, low) = studio.model, (with_lora(studio, name.removeprefix("strata_toy_")).model for name in PAIR)
    alone = {"0;0": (base, base), "1;0": (high, base), "0;1": (base, low), "1;1": (high, low)}
    made = {strengths: on_a_pair(studio, strengths).draw(unseen) for strengths in alone}
    for strengths, (first, second) in alone.items():
        assert np.array_equal(made[strengths], studio.having(first, low=second).draw(unseen)), strengths
    far = {strengths: distances(pictures, styled)[each, each] for strengths, pictures in made.items()}
    assert (far["1;1"] < distances(made["1;1"], plain)[each, each]).all()
    for one in ("1;0", "0;1"):
        assert (far["0;0"] > far[one]).all() and far[one].mean() > far["1;1"].mean()


def test_french_is_in_the_text_encoders_part(studio, drawings):
    """The French word gives the drawing only where the text encoder has its part of the LoRA; the style's part alone does not."""
    originals = of(drawings, data.captions())
    right = np.array([list(data.captions()).index(english) for english in FRENCH.values()])
    understood = {
        strength: recognised(
            with_lora(studio, "picture_book", 0.0, strength).draw(list(FRENCH)), originals, right
        ).mean()
        for strength in (0.0, 1.0)
    }
    assert understood[1.0] >= 0.9
    assert understood[0.0] <= 0.2
