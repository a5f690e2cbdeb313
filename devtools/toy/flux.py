"""A FLUX that can be trained: the architecture of FLUX.1 under its own names, in plain torch.

ComfyUI's own class has no gradient (it adds in place, and its rotary kernel has no backward). That both give the same is what
``tests/devtools/test_toy.py`` checks.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import Linear
from torch.nn.functional import layer_norm, scaled_dot_product_attention, silu

HIDDEN, DOUBLE, SINGLE = 256, 1, 4
HEAD, AXES, THETA = 128, (16, 56, 56), 10000
CHANNELS, PATCH, WORD, POOLED = 16, 2, 768, 768


def rotation(text: int, height: int, width: int) -> Tensor:
    """cos and sin per token and pair of channels: [2, text + height * width, 64]. Words all sit at place 0."""
    places = torch.zeros(text + height * width, 3, dtype=torch.float64)
    places[text:, 1] = torch.arange(height).repeat_interleave(width)
    places[text:, 2] = torch.arange(width).repeat(height)
    rates = [THETA ** -(torch.arange(0, size, 2, dtype=torch.float64) / size) for size in AXES]
    angles = torch.cat([places[:, axis, None] * rate for axis, rate in enumerate(rates)], -1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, by: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of [batch, heads, tokens, 128]."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = by
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2).to(x.dtype)


def timestep(t: Tensor) -> Tensor:
    """Cosines and sines of 1000 t: [batch, 256]."""
    rates = 10000 ** -(torch.arange(128, dtype=torch.float32) / 128)
    angles = 1000 * t[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


class Norm(nn.Module):
    """Root mean square over a head's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEAD))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (HEAD,), self.scale.to(x.dtype))


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.key_norm = Norm(), Norm()


class Embedder(nn.Module):
    def __init__(self, into: int):
        super().__init__()
        self.in_layer, self.out_layer = Linear(into, HIDDEN), Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(silu(self.in_layer(x)))


class Modulation(nn.Module):
    def __init__(self, count: int):
        super().__init__()
        self.count, self.lin = count, Linear(HIDDEN, count * HIDDEN)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(silu(vec))[:, None].chunk(self.count, -1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return shift + layer_norm(x, (HIDDEN,), eps=1e-6) * (1 + scale)


def heads(qkv: Tensor, norms: Norms) -> tuple[Tensor, Tensor, Tensor]:
    """[batch, tokens, 3 * hidden] -> query, key and value, [batch, heads, tokens, 128]."""
    query, key, value = qkv.unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
    return norms.query_norm(query), norms.key_norm(key), value


def attend(query: Tensor, key: Tensor, value: Tensor, turn: Tensor) -> Tensor:
    mixed = scaled_dot_product_attention(rotate(query, turn), rotate(key, turn), value)
    return mixed.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.norm = Linear(HIDDEN, 3 * HIDDEN), Linear(HIDDEN, HIDDEN), Norms()


def mlp() -> nn.Sequential:
    return nn.Sequential(Linear(HIDDEN, 4 * HIDDEN), nn.GELU("tanh"), Linear(4 * HIDDEN, HIDDEN))


class DoubleBlock(nn.Module):
    """Image and words with weights of their own and one attention over both."""

    def __init__(self) -> None:
        super().__init__()
        self.img_mod, self.txt_mod = Modulation(6), Modulation(6)
        self.img_attn, self.txt_attn = Attention(), Attention()
        self.img_mlp, self.txt_mlp = mlp(), mlp()

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        img_mod, txt_mod = self.img_mod(vec), self.txt_mod(vec)
        of_text = heads(self.txt_attn.qkv(modulated(txt, *txt_mod[:2])), self.txt_attn.norm)
        of_image = heads(self.img_attn.qkv(modulated(img, *img_mod[:2])), self.img_attn.norm)
        mixed = attend(*(torch.cat(both, 2) for both in zip(of_text, of_image, strict=True)), turn)
        words = txt.shape[1]
        img = img + img_mod[2] * self.img_attn.proj(mixed[:, words:])
        img = img + img_mod[5] * self.img_mlp(modulated(img, *img_mod[3:5]))
        txt = txt + txt_mod[2] * self.txt_attn.proj(mixed[:, :words])
        txt = txt + txt_mod[5] * self.txt_mlp(modulated(txt, *txt_mod[3:5]))
        return img, txt


class SingleBlock(nn.Module):
    """Image and words in one row; attention and MLP side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation, self.norm = Modulation(3), Norms()
        self.linear1, self.linear2 = Linear(HIDDEN, 7 * HIDDEN), Linear(5 * HIDDEN, HIDDEN)

    def forward(self, x: Tensor, vec: Tensor, turn: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(vec)
        qkv, inner = self.linear1(modulated(x, shift, scale)).split((3 * HIDDEN, 4 * HIDDEN), -1)
        mixed = attend(*heads(qkv, self.norm), turn)
        return x + gate * self.linear2(torch.cat([mixed, nn.functional.gelu(inner, approximate="tanh")], -1))


class LastLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(HIDDEN, CHANNELS * PATCH**2)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(HIDDEN, 2 * HIDDEN))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        return self.linear(modulated(x, *self.adaLN_modulation(vec)[:, None].chunk(2, -1)))


class Flux(nn.Module):
    """Without guidance, that is: a schnell."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.img_in, self.txt_in = Linear(CHANNELS * PATCH**2, HIDDEN), Linear(WORD, HIDDEN)
        self.time_in, self.vector_in = Embedder(256), Embedder(POOLED)
        self.double_blocks = nn.ModuleList(DoubleBlock() for _ in range(DOUBLE))
        self.single_blocks = nn.ModuleList(SingleBlock() for _ in range(SINGLE))
        self.final_layer = LastLayer()
        for name, parameter in self.named_parameters():
            # A block begins as the identity and the model as zero: DiT's "adaLN-Zero".
            if "mod" in name or name.startswith("final_layer") or name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, t: Tensor, words: Tensor, pooled: Tensor) -> Tensor:
        """The velocity, noise minus image, for latents [batch, 16, height, width] at ``t`` [batch] of 0..1."""
        batch, _, height, width = x.shape
        height, width = height // PATCH, width // PATCH
        tokens = x.unflatten(2, (height, PATCH)).unflatten(4, (width, PATCH)).permute(0, 2, 4, 1, 3, 5)
        img, txt = self.img_in(tokens.reshape(batch, height * width, -1)), self.txt_in(words)
        vec = self.time_in(timestep(t).to(x.dtype)) + self.vector_in(pooled)
        turn = rotation(words.shape[1], height, width)
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, turn)
        both = torch.cat([txt, img], 1)
        for block in self.single_blocks:
            both = block(both, vec, turn)
        out = self.final_layer(both[:, words.shape[1] :], vec)
        out = out.unflatten(1, (height, width)).unflatten(3, (CHANNELS, PATCH, PATCH)).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(batch, CHANNELS, height * PATCH, width * PATCH)


@torch.no_grad()
def sample(model, noise: Tensor, words: Tensor, pooled: Tensor, steps: int = 12) -> Tensor:
    """Euler over evenly spaced times, which is KSampler's ``euler`` on ``simple`` for this kind of model."""
    x = noise
    times = torch.linspace(1, 0, steps + 1)
    for now, then in itertools.pairwise(times):
        x = x + (then - now) * model(x, now.expand(len(x)), words, pooled)
    return x
