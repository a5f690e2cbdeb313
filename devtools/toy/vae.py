"""The autoencoder: ComfyUI's TAESD with FLUX's 16 channels.

Its encoder is not trained but set by hand: the drawings are so plain that the 16 principal components of their 8 x 8 squares show
nearly all of them, and a strided convolution can compute these exactly. So the image model can begin at once, while the decoder,
which has no such closed form, is trained beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from comfy.latent_formats import Flux as FluxLatents
from comfy.taesd.taesd import TAESD
from safetensors.torch import load_file, save_file

from .data import captions, drawings
from .styles import FIRST_STYLES
from .training import Run, descend, half_products, one_cycle, own_share, tiles, to_pictures, to_tensor

BLOCK, CHANNELS = 8, 16
CROP, BATCH, PEAK, SEED = 8, 4, 2e-3, 1  # the crop in latents: 64 pixels
NOISE = 0.05  # on the latent image: what the decoder has to forgive the sampler
EVENNESS = 0.75  # 0: components as they are, the first ten times the last; 1: all of one size
OFFSET = 12.0  # lifts the components over the encoder's ReLUs


def all_pictures(work: Path) -> np.ndarray:
    """Every drawing, plain and in each style: [1 + styles, drawings, height, width, 3], uint8."""
    cache = work / "styled.npy"
    if not cache.is_file():
        plain = list(drawings(work).values())
        np.save(
            cache, np.stack([np.stack([change(p) for p in plain]) for change in (np.asarray, *FIRST_STYLES.values())])
        )
    return np.load(cache, mmap_mode="r")


def squares(pictures: np.ndarray) -> np.ndarray:
    """[n, height, width, 3], uint8 -> [n * squares, 192] of 0..1, a row being (y, x, colour) of one square."""
    n, height, width, _ = pictures.shape
    cut = pictures.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).swapaxes(2, 3)
    return cut.reshape(-1, BLOCK * BLOCK * 3).astype(np.float64) / 255


def components(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """(directions [16, 192], means [16]): a latent is directions @ square - means.

    Each has mean 0 on the captioned drawings; together they have deviation 1 there.
    """
    styled = all_pictures(work)
    rows = np.concatenate([squares(part[:: 1 if style == 0 else 3]) for style, part in enumerate(styled)])
    rows = rows[rows.std(1) > 0.01]
    vectors, values, _ = np.linalg.svd(np.cov(rows.T, bias=True))
    # The sign of a component is free: the way that makes most of it positive.
    vectors = vectors[:, :CHANNELS] * np.sign(vectors[:, :CHANNELS].sum(0))
    directions = np.ascontiguousarray((vectors / values[:CHANNELS] ** (EVENNESS / 2)).T)
    named = drawings(work)
    found = squares(np.stack([named[name] for name in captions().values()])) @ directions.T
    size = found.std(0)
    directions = directions / np.sqrt(np.mean(size**2))
    return directions, found.mean(0) / np.sqrt(np.mean(size**2))


def set_encoder(vae: TAESD, directions: np.ndarray, means: np.ndarray) -> None:
    """Write the components as the encoder's convolutions. Channel 63 is a constant 1 that carries the offset."""
    directions, means = torch.from_numpy(directions).float(), torch.from_numpy(means).float()
    strided = [2, 6, 10]
    with torch.no_grad():
        for parameter in vae.taesd_encoder.parameters():
            parameter.zero_()  # with the last convolution of each block at zero, the block is the identity
        layers = vae.taesd_encoder
        layers[0].weight[:3, :, 1, 1] = torch.eye(3)
        layers[0].bias[63] = 1
        for level, layer in enumerate(strided[:2]):
            have = 3 * 4**level
            for y in range(2):
                for x in range(2):  # (y, x, what was there): the order in which squares() has them is undone below
                    first = (y * 2 + x) * have
                    layers[layer].weight[first : first + have, :have, 1 + y, 1 + x] = torch.eye(have)
            layers[layer].weight[63, 63, 1, 1] = 1
        # Pixel (y, x) of a square is bit by bit: its place in the last, the second and the first of the strided layers.
        cut = directions.reshape(CHANNELS, 2, 2, 2, 2, 2, 2, 3)  # component, y2, y1, y0, x2, x1, x0, colour
        last = cut.permute(0, 2, 5, 3, 6, 7, 1, 4).reshape(
            CHANNELS, 48, 2, 2
        )  # component, (y1 x1 y0 x0 colour), y2, x2
        layers[strided[2]].weight[:CHANNELS, :48, 1:, 1:] = last
        layers[strided[2]].weight[:CHANNELS, 63, 1, 1] = OFFSET
        layers[-1].weight[:, :CHANNELS, 1, 1] = torch.eye(CHANNELS)
        layers[-1].bias.copy_(-OFFSET - means)
        # What FLUX sees, (latent - shift) * scale, is then the components themselves.
        vae.vae_scale.fill_(FluxLatents().scale_factor)
        vae.vae_shift.fill_(FluxLatents().shift_factor)


def fresh(seed: int) -> TAESD:
    """An untrained one (ComfyUI's layers leave their weights empty). Its blocks begin as the identity, which learns far sooner."""
    torch.manual_seed(seed)
    vae = TAESD(latent_channels=CHANNELS).requires_grad_(False)
    for name, parameter in vae.taesd_decoder.named_parameters():
        parameter.requires_grad_(True)
        if parameter.ndim == 4 and not name.endswith("conv.4.weight"):
            torch.nn.init.kaiming_normal_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        vae.taesd_decoder[-1].weight *= 0.1
        vae.taesd_decoder[-1].bias.fill_(0.5)
    return vae.to(memory_format=torch.channels_last)


def with_encoder(work: Path) -> TAESD:
    """An untrained autoencoder with the encoder set; the components are computed once."""
    file = work / "components.safetensors"
    vae = fresh(SEED)
    if not file.is_file():
        directions, means = components(work)
        save_file({"directions": torch.from_numpy(directions), "means": torch.from_numpy(means)}, file)
    saved = load_file(file)
    set_encoder(vae, saved["directions"].numpy(), saved["means"].numpy())
    return vae


def load_vae(work: Path) -> TAESD:
    """The autoencoder, its decoder as far as it is."""
    vae = with_encoder(work)
    run = work / "vae" / "run.pt"
    if run.is_file():
        vae.taesd_decoder.load_state_dict(torch.load(run, weights_only=True)["decoder"])
    return vae.requires_grad_(False)


def distance(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1 and L2 of the colours, and L1 of their differences between neighbours, which keeps edges sharp."""
    off = made - wanted
    edges = (off[..., 1:, :] - off[..., :-1, :]).abs().mean() + (off[..., 1:] - off[..., :-1]).abs().mean()
    return off.abs().mean() + off.square().mean() + 0.5 * edges


def all_latents(work: Path, pictures: np.ndarray) -> np.ndarray:
    """What the encoder gives for :func:`all_pictures`, float32: [1 + styles, drawings, 16, height / 8, width / 8]."""
    saved = load_file(work / "components.safetensors")
    directions, means = saved["directions"].numpy(), saved["means"].numpy()
    grid = pictures.shape[2] // BLOCK
    parts = [(squares(part) @ directions.T - means).reshape(-1, grid, grid, CHANNELS) for part in pictures]
    return np.stack([np.float32(part.transpose(0, 3, 1, 2)) for part in parts])


def train(work: Path, steps: int) -> TAESD:
    """Train the decoder, or go on: half of it on plain drawings, the captioned ones more often, the rest on the styles."""
    pictures = all_pictures(work)
    vae = with_encoder(work)
    latents = all_latents(work, pictures)
    names = list(drawings(work))
    wished = [names.index(name) for name in captions().values()]
    decoder = vae.taesd_decoder
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    run = Run(work / "vae", steps, decoder=decoder, optimiser=optimiser)
    shown = [(style, index) for style in range(len(pictures)) for index in (60, 300, 500, 700, 900, 1100)]
    originals = np.stack([pictures[key] for key in shown])
    grid = latents.shape[-1]

    def batch(random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, outputs = [], []
        while len(inputs) < BATCH:
            style = 0 if random.random() < 0.5 else random.integers(1, len(pictures))
            index = random.choice(wished) if random.random() < 0.5 else random.integers(len(names))
            top, left = random.integers(0, grid - CROP + 1, 2)
            y, x = (slice(start * BLOCK, (start + CROP) * BLOCK) for start in (top, left))
            picture = pictures[style, index, y, x]
            if picture.std() < 12 and random.random() < 0.95:
                continue
            inputs.append(latents[style, index, :, top : top + CROP, left : left + CROP])
            outputs.append(picture)
        noise = random.standard_normal((BATCH, CHANNELS, CROP, CROP), np.float32) * NOISE
        noisy = torch.from_numpy(np.stack(inputs) + noise).to(memory_format=torch.channels_last)
        return own_share((noisy, to_tensor(np.stack(outputs))))

    def one(step: int, random: np.random.Generator) -> float:
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step, steps, PEAK)
        inputs, wanted = batch(random)
        with half_products():
            made = decoder(inputs) * 2 - 1
        return descend(distance(made.float(), wanted), list(decoder.parameters()), optimiser)

    def picture() -> None:
        with torch.no_grad():
            made = to_pictures(decoder(torch.from_numpy(np.stack([latents[key] for key in shown])).float()) * 2 - 1)
        tiles(
            [list(originals[:12]), list(made[:12]), list(originals[12:]), list(made[12:])], work / "vae" / "sample.png"
        )

    run.go(one, SEED, picture)
    return vae
