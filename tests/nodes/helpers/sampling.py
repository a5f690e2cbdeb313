"""Small models of every architecture that matters here, and a real run of ComfyUI's sampler on them."""

from __future__ import annotations

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfy_extras.nodes_custom_sampler as custom
import torch

from strata.tests.nodes.helpers import core_models, small_models

SD3 = {
    **core_models.MMDIT,
    "depth": 2,
    "num_patches": 256,
    "pos_embed_max_size": 16,
    "adm_in_channels": 64,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 96, "out_features": 128}},
}
Z_IMAGE = {
    **core_models.Z_IMAGE,
    "dim": 256,  # its modulation is 256 wide
    "cap_feat_dim": 64,
    "n_layers": 2,
    "n_heads": 2,
    "n_kv_heads": 2,
    "axes_dims": [32, 48, 48],
}
QWEN_IMAGE = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "num_layers": 2,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
}
WAN = {**core_models.WAN, "dim": 96, "num_heads": 2, "ffn_dim": 192, "num_layers": 2}


def _sd3(dtype: torch.dtype = torch.float32):
    model = small_models.build(comfy.supported_models.SD3, SD3, dtype)
    model.model.diffusion_model.pos_embed.zero_()  # a buffer that ComfyUI leaves to the checkpoint
    return model


MODELS = {
    "SD1.5": small_models.sd15,
    "SDXL": small_models.sdxl,
    "FLUX.1": small_models.flux,
    "SD3": _sd3,
    "Z-Image": lambda dtype=torch.float32: small_models.build(comfy.supported_models.ZImage, Z_IMAGE, dtype),
    "Qwen-Image": lambda dtype=torch.float32: small_models.build(comfy.supported_models.QwenImage, QWEN_IMAGE, dtype),
    "Wan": lambda dtype=torch.float32: small_models.build(comfy.supported_models.WAN21_T2V, WAN, dtype),
}
# (latent, context, pooled)
SHAPES = {
    "SD1.5": ((1, 4, 8, 8), (1, 7, 768), None),
    "SDXL": ((1, 4, 8, 8), (1, 7, 2048), (1, 1280)),
    "FLUX.1": ((1, 16, 8, 8), (1, 7, 4096), (1, 768)),
    "SD3": ((1, 16, 8, 8), (1, 7, 96), (1, 64)),
    "Z-Image": ((1, 16, 8, 8), (1, 7, 64), None),
    "Qwen-Image": ((1, 16, 1, 8, 8), (1, 7, 64), None),
    "Wan": ((1, 16, 2, 8, 8), (1, 7, 4096), None),
}


def prompt(family: str, seed: int = 1, **options) -> list:
    """A conditioning of random numbers."""
    _, context, pooled = SHAPES[family]
    generator = torch.Generator().manual_seed(seed)
    extra = {} if pooled is None else {"pooled_output": torch.randn(pooled, generator=generator)}
    return [[torch.randn(context, generator=generator), {**extra, **options}]]


def noise(family: str, seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPES[family][0], generator=torch.Generator().manual_seed(seed))


def sample(
    model, family: str, steps: int = 2, cfg: float = 3.0, positive=None, negative=None, **options
) -> torch.Tensor:
    """The latent after ``steps`` of Euler, as the KSampler node makes it."""
    start = noise(family)
    return comfy.sample.sample(
        model,
        start,
        steps,
        cfg,
        "euler",
        "simple",
        positive or prompt(family, 1),
        negative or prompt(family, 2),
        torch.zeros_like(start),
        disable_pbar=True,
        seed=3,
        **options,
    )


def advanced(guider, family: str) -> torch.Tensor:
    """The latent after two steps of Euler, as the SamplerCustomAdvanced node makes it with this guider."""
    latent = {"samples": torch.zeros(SHAPES[family][0])}
    sampler = custom.KSamplerSelect.execute("euler").result[0]
    sigmas = comfy.samplers.calculate_sigmas(guider.model_patcher.get_model_object("model_sampling"), "simple", 2)
    start = custom.RandomNoise.execute(5).result[0]
    return custom.SamplerCustomAdvanced.execute(start, guider, sampler, sigmas, latent).result[0]["samples"]


def unload() -> None:
    comfy.model_management.unload_all_models()


def distance(a: torch.Tensor, b: torch.Tensor, change: torch.Tensor) -> float:
    """|a - b| relative to |change|."""
    return float((a.double() - b.double()).norm() / change.double().norm())


def each_once(beside):
    """For a fixture: a function from a family's name to ``beside(model, family)``, asked once. The models are unloaded at the end."""
    known = {}

    def get(family: str):
        if family not in known:
            known[family] = beside(MODELS[family](), family)
        return known[family]

    yield get
    unload()
