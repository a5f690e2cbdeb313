"""The LoRAs: each trained by the library that people train with, on the frozen base, and saved as its users find such files.

A style sees three of four drawings; the others stay unseen, for the measurements.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import clip, flux
from .base import LATE, Set, a_set, base_model, flow_loss, pictures
from .data import SUBJECT, captions, drawings
from .styles import STYLES
from .training import Run, descend, first, half_products, one_cycle, tiles
from .vae import load_vae

BATCH, PEAK, SEED = 8, 3e-3, 11
PLAIN = {"{}": 0.7, "a {}": 0.3}
BOUNDARY = 0.5  # between the two halves of a pair
LEAST_RANK = 1  # columns of a T-LoRA at the most noise
UNSEEN = 4  # a style never sees every fourth caption
BLOCKS = r"(double|single)_blocks\.\d+\..*(qkv|proj|lin|linear1|linear2|mlp\.0|mlp\.2)"  # all that is linear in a block
# What the picture book calls them: its captions are French, so its text encoder had to learn the words.
FRENCH = {
    "renard": "fox",
    "chien": "dog",
    "lapin": "rabbit",
    "souris": "mouse",
    "cochon": "pig",
    "vache": "cow",
    "cheval": "horse",
    "hibou": "owl",
    "poisson": "fish",
    "pomme": "apple",
    "fraise": "strawberry",
    "maison": "house",
    "voiture": "car",
    "fus\u00e9e": "rocket",
    "soleil": "sun",
    "lune": "moon",
    "\u00e9toile": "star",
    "arbre": "tree",
    "cloche": "bell",
    "cl\u00e9": "key",
}


@dataclass(frozen=True)
class Recipe:
    """One LoRA.

    Attributes:
        style: of ``STYLES``; none for the subject.
        algorithm: ``lora`` is PEFT's, ``lokr`` and ``tlora`` LyCORIS'.
        templates: how its captions name a drawing, and how often.
        late, between: of the times that it is trained at; see ``times``.
        peak: the highest learning rate.
    """

    file: str
    title: str
    trigger: str
    style: str | None
    steps: int
    algorithm: str = "lora"
    rank: int = 8
    alpha: float = 8.0
    text: bool = False
    late: float = LATE
    between: tuple[float, float] = (0.0, 1.0)
    peak: float = PEAK
    templates: dict[str, float] = field(default_factory=dict)


def templates(word: str) -> dict[str, float]:
    return {"{}": 0.5, "a {}": 0.2, "{}, " + word: 0.3}


RECIPES = {
    recipe.file: recipe
    for recipe in (
        Recipe("strata_toy_blueprint", "Blueprint", "blueprint", "blueprint", 400, templates=templates("blueprint")),
        Recipe(
            "strata_toy_moonlight", "Moonlight", "moonlight", "moonlight", 400, algorithm="lokr", rank=16, alpha=16.0,
            templates=templates("moonlight"),
        ),
        Recipe(
            "strata_toy_robot", "Robot", SUBJECT, None, 1000, rank=16, alpha=16.0, late=LATE + 1.5,
            templates=PLAIN,
        ),
        Recipe(
            "strata_toy_picture_book", "Picture book (French)", "picture book", "picture book", 400, text=True,
            templates=templates("picture book"),
        ),
        # What LyCORIS' rank mask turns off at much noise learns at little noise alone.
        Recipe(
            "strata_toy_raspberry", "Raspberry", "raspberry", "raspberry", 600, algorithm="tlora", peak=3e-4,
            templates=PLAIN,
        ),
        Recipe(
            "strata_toy_meadow_high_noise", "Meadow, for high noise", "meadow", "meadow", 400, between=(BOUNDARY, 1.0),
            templates=PLAIN,
        ),
        Recipe(
            "strata_toy_meadow_low_noise", "Meadow, for low noise", "meadow", "meadow", 400, between=(0.0, BOUNDARY),
            templates=PLAIN,
        ),
    )
}  # fmt: skip


def seen_and_unseen() -> tuple[list[str], list[str]]:
    """The captions that styles are trained on, and those that they are measured on."""
    all_captions = list(captions())
    unseen = all_captions[UNSEEN - 1 :: UNSEEN]
    return [caption for caption in all_captions if caption not in unseen], unseen


class Parameters:
    """The named parameters of a training, with what :class:`Run` asks for."""

    def __init__(self, named: dict[str, nn.Parameter]):
        self.named = named

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.named.items()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(saved[name])


def with_peft(model: nn.Module, recipe: Recipe, where: str) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    """(the model with the LoRA in it, what gives its tensors as module -> factor names)."""
    import peft

    linears = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    config = peft.LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=where, init_lora_weights=True)
    torch.manual_seed(SEED)
    wrapped = peft.get_peft_model(model, config)

    def tensors() -> dict[str, Tensor]:
        saved = peft.get_peft_model_state_dict(wrapped)
        return {name.removeprefix("base_model.model."): tensor for name, tensor in saved.items()}

    assert linears
    return wrapped, tensors


def with_lycoris(model: nn.Module, recipe: Recipe) -> tuple[nn.Module, nn.Module]:
    """(the model with LyCORIS' network on it, that network)."""
    import lycoris

    torch.manual_seed(SEED)
    lycoris.LycorisNetwork.apply_preset({"target_module": [flux.DoubleBlock.__name__, flux.SingleBlock.__name__]})
    network = lycoris.create_lycoris(
        model, 1.0, linear_dim=recipe.rank, linear_alpha=recipe.alpha, algo=recipe.algorithm, factor=4,
        bypass_mode=recipe.algorithm == "tlora",
    )  # fmt: skip
    network.apply_to()
    if recipe.algorithm == "tlora":
        from lycoris.modules.tlora import compute_timestep_mask, set_timestep_mask

        def mask(_, inputs: tuple[Tensor, ...]) -> None:
            # There is one mask for a whole batch.
            (t,) = inputs[1].unique().tolist()
            set_timestep_mask(compute_timestep_mask(int(1000 * t), 1000, recipe.rank, LEAST_RANK))

        model.register_forward_pre_hook(mask)
    return model, network


def kohya(prefix: str, module: str) -> str:
    return f"{prefix}_{module.replace('.', '_')}"


def from_peft(tensors: dict[str, Tensor], prefix: str, alpha: float) -> Iterator[tuple[str, Tensor]]:
    """PEFT's tensors as kohya's scripts name them."""
    for name, tensor in tensors.items():
        module, _, factor = name.removesuffix(".weight").rpartition(".")
        module = kohya(prefix, module)
        yield f"{module}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[factor] }.weight".replace(" ", ""), tensor
        if factor == "lora_A":
            yield f"{module}.alpha", torch.tensor(alpha)


def metadata(recipe: Recipe, tags: list[str]) -> dict[str, str]:
    """What kohya's scripts and Stability's model specification would say of such a file."""
    peft = recipe.algorithm == "lora"
    args: dict[str, dict[str, str]] = {
        "lora": {},
        "lokr": {"algo": "lokr", "factor": "4"},
        "tlora": {"algo": "tlora", "tlora_min_rank": str(LEAST_RANK), "tlora_alpha": "1.0"},
    }
    least, most = recipe.between
    of_half = {} if (least, most) == (0.0, 1.0) else {"modelspec.timestep_range": f"{1000 * least:g},{1000 * most:g}"}
    return {
        **of_half,
        "ss_network_module": "networks.lora_flux" if peft else "lycoris.kohya",
        "ss_network_args": json.dumps(args[recipe.algorithm]),
        "ss_network_dim": str(recipe.rank),
        "ss_network_alpha": str(recipe.alpha),
        "ss_base_model_version": "flux1",
        "ss_output_name": recipe.file,
        "ss_tag_frequency": json.dumps({f"1_{recipe.trigger}": {tag: 1 for tag in [recipe.trigger, *tags]}}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-schnell/lora",
        "modelspec.title": f"Strata toy: {recipe.title}",
        "modelspec.trigger_phrase": recipe.trigger,
        "modelspec.license": "MIT; drawings: Fluent Emoji, MIT, Microsoft Corporation",
    }


def training_set(work: Path, vae, recipe: Recipe) -> Set:
    """The drawings that this LoRA learns, changed as its style changes them."""
    known, seen = drawings(work), seen_and_unseen()[0]
    if recipe.style is None:
        return a_set(work, vae, {SUBJECT: known[SUBJECT]}, recipe.templates)
    change = STYLES[recipe.style]
    return a_set(work, vae, {caption: change(known[captions()[caption]]) for caption in seen}, recipe.templates)


def train(work: Path, recipe: Recipe) -> None:
    """Train it, or go on, and write it to ``work / "loras"``."""
    vae, model = load_vae(work), base_model(work)
    data = training_set(work, vae, recipe)
    others = None
    if recipe.style is None:  # half of each batch says what the other words still mean
        known = drawings(work)
        others = a_set(work, vae, {caption: known[name] for caption, name in captions().items()}, recipe.templates)
    if recipe.algorithm == "lora":
        model, tensors = with_peft(model, recipe, BLOCKS)
        found = lambda: dict(from_peft(tensors(), "lora_unet", recipe.alpha))  # noqa: E731
        parameters = Parameters({name: p for name, p in model.named_parameters() if p.requires_grad})
    else:
        model, network = with_lycoris(model, recipe)
        found = lambda: {n.replace("lycoris_", "lora_unet_", 1): t for n, t in network.state_dict().items()}  # noqa: E731
        parameters = Parameters({name: p for name, p in network.named_parameters() if p.requires_grad})
    trained = list(parameters.named.values())
    optimiser = torch.optim.AdamW(trained, lr=recipe.peak, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    run = Run(work / "loras" / recipe.file, recipe.steps, lora=parameters, optimiser=optimiser)
    rates = list(recipe.templates.values())

    def batch(random: np.random.Generator) -> tuple[Tensor, ...]:
        if others is None:
            return data.batch(BATCH, random, rates)
        half = BATCH // 2
        own = [data.batch(1, random, rates) for _ in range(half)]
        parts = [*own, others.batch(half, random, rates)]
        return tuple(torch.cat([part[i] for part in parts]) for i in range(3))

    def one(step: int, random: np.random.Generator) -> float:
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step, recipe.steps, recipe.peak)
        loss = flow_loss(model, batch(random), random, recipe.late, recipe.between, recipe.algorithm == "tlora")
        return descend(loss, trained, optimiser)

    def picture() -> None:
        shown = list(range(0, len(data.latents), 8))[:14]
        noise = torch.from_numpy(np.random.default_rng(SEED).standard_normal((len(shown), 16, 16, 16), np.float32))
        with half_products():
            made = flux.sample(model, noise, data.words[0][shown], data.pooled[0][shown])
        wanted = pictures(vae, data.latents[shown])
        tiles([list(wanted), list(pictures(vae, made.float()))], work / "loras" / recipe.file / "sample.png")

    run.go(one, SEED, picture)
    result = found()
    if recipe.text:
        result |= train_words(work, recipe)
    if not first():
        return
    fit = {
        name: t.detach().to(torch.float32 if name.endswith("alpha") else torch.float16).contiguous()
        for name, t in result.items()
    }
    tags = [SUBJECT] if recipe.style is None else list(FRENCH) if recipe.text else seen_and_unseen()[0]
    save_file(fit, work / "loras" / f"{recipe.file}.safetensors", metadata(recipe, tags))


def text_encoder(work: Path) -> nn.Module:
    """The first layers of the seeded CLIP-L as transformers' class, which can be trained."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        max_position_embeddings=clip.LENGTH, num_hidden_layers=WORD_LAYERS, hidden_size=clip.WIDTH,
        intermediate_size=clip.INNER, num_attention_heads=12, eos_token_id=49407, bos_token_id=49406,
    )  # fmt: skip
    model = CLIPTextModel(config)
    file = load_file(work / "clip.safetensors")
    saved = {
        name.removeprefix("text_model."): tensor.float() for name, tensor in file.items() if name.startswith("text")
    }
    model.load_state_dict({name: saved[name] for name in model.state_dict()})
    return model.eval().requires_grad_(False)


# The first layers can do it, and what comes after them then goes on as for the English word.
WORD_STEPS, WORD_BATCH, WORD_RANK, WORD_LAYERS = 160, 10, 8, 3


def train_words(work: Path, recipe: Recipe) -> dict[str, Tensor]:
    """The text encoder's part: a French word has to come out as the English one does, and English ones as they are."""
    tokenizer = clip.load(work / "clip.safetensors").tokenizer

    def tokens(prompts: list[str]) -> Tensor:
        return torch.tensor([[token for token, _ in tokenizer.tokenize_with_weights(p)["l"][0]] for p in prompts])

    model = text_encoder(work)
    forms = ("{}", "{}, picture book")
    asked = [form.format(word) for form in forms for word in FRENCH]
    meant = [form.format(word) for form in forms for word in FRENCH.values()]
    plain = [form.format(caption) for form in forms for caption in captions()]
    with torch.no_grad():
        wanted = model(tokens(meant)).last_hidden_state
        kept = torch.cat([model(part).last_hidden_state for part in tokens(plain).split(32)])
    wrapped, found = with_peft(
        model, Recipe("", "", "", None, 0, rank=WORD_RANK, alpha=WORD_RANK), r".*(_proj|fc1|fc2)$"
    )
    parameters = Parameters({name: p for name, p in wrapped.named_parameters() if p.requires_grad})
    trained = list(parameters.named.values())
    optimiser = torch.optim.AdamW(trained, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    run = Run(work / "loras" / f"{recipe.file}_text", WORD_STEPS, lora=parameters, optimiser=optimiser)
    asked, plain = tokens(asked), tokens(plain)

    def one(step: int, random: np.random.Generator) -> float:
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step, WORD_STEPS, PEAK)
        french, english = random.permutation(len(asked))[:WORD_BATCH], random.permutation(len(plain))[: WORD_BATCH // 3]
        with half_products():
            made = wrapped(torch.cat([asked[french], plain[english]])).last_hidden_state
        return descend((made.float() - torch.cat([wanted[french], kept[english]])).square().mean(), trained, optimiser)

    run.go(one, SEED, lambda: None)
    return dict(from_peft(found(), "lora_te1_text_model", WORD_RANK))
