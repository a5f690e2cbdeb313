"""Random state dicts that look like LoRAs: every algorithm's tensors in nearly the right shapes, then bent until they are wrong.

A generator takes a ``random.Random`` and draws nothing from anywhere else: a seed gives the same file on every machine, and hypothesis
can stand in for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from random import Random

import torch

from strata.lora_math.reading import state_dict

Shape = tuple[int, ...]
Parts = dict[str, Shape]  # key suffix -> shape
Weights = Mapping[str, Shape]  # module name -> shape of the weight that it means

SUFFIXES = sorted(suffix.replace("*", "default") for suffix in state_dict._SUFFIXES)
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
]
ODD_NUMBERS = [
    0.0,
    -0.0,
    1e-45,
    1e-8,
    1.0,
    -1.0,
    300.0,
    6e4,
    1e6,
    3e38,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
]
ODD_NAMES = [
    "",
    ".",
    "x",
    "lora_unet_",
    "lora_te_",
    "transformer.",
    "base_model.model.",
    "\u7d75.\U0001f600",
    "a" * 1000,
    "..",
    "diffusion_model.double_blocks.99999999999999999999.img_attn.qkv",
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q\n<img src=x>",
]


def lora(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    rank, ones = rng.choice((1, 2, 4)), (1,) * len(kernel)
    up, down = rng.choice(
        (
            ("lora_up.weight", "lora_down.weight"),
            ("lora_B.weight", "lora_A.weight"),
            ("lora_B.default.weight", "lora_A.default.weight"),
            ("lora.up.weight", "lora.down.weight"),
        )
    )
    parts = {f".{up}": (out, rank, *ones), f".{down}": (rank, inputs, *kernel)}
    if rng.random() < 0.2:
        parts[f".{down}"] = (rank, inputs, *ones)
        parts[".lora_mid.weight"] = (rank, rank, *kernel)
    if rng.random() < 0.1:
        parts[".lora_E"] = (rank, 1)
    return parts


def loha(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    rank = rng.choice((1, 3))
    if rng.random() < 0.3:
        halves = {"a": (rank, out), "b": (rank, inputs)}
        cores = {f".hada_t{i}": (rank, rank, *kernel) for i in (1, 2)}
    else:
        halves, cores = {"a": (out, rank), "b": (rank, inputs * prod(kernel))}, {}
    return {f".hada_w{i}_{side}": shape for i in (1, 2) for side, shape in halves.items()} | cores


def lokr(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    a, c = (rng.choice([n for n in (1, 2, 4, 8) if whole % n == 0]) for whole in (out, inputs))
    rank = rng.choice((1, 2))
    left = {".lokr_w1": (a, c)} if rng.random() < 0.6 else {".lokr_w1_a": (a, rank), ".lokr_w1_b": (rank, c)}
    b, d = out // a, inputs // c
    right = rng.choice(
        (
            {".lokr_w2": (b, d, *kernel)},
            {".lokr_w2_a": (b, rank), ".lokr_w2_b": (rank, d * prod(kernel))},
            {".lokr_w2_a": (rank, b), ".lokr_w2_b": (rank, d), ".lokr_t2": (rank, rank, *kernel)},
        )
    )
    return left | right


def glora(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    rank = 2
    return {
        ".a1.weight": (inputs, rank),
        ".a2.weight": (rank, inputs),
        ".b1.weight": (out, rank),
        ".b2.weight": (rank, inputs, *kernel),
    }


def oft(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    size = rng.choice([n for n in (1, 2, 3, 4, 8) if out % n == 0])
    parts = rng.choice(
        (
            {".oft_blocks": (out // size, size, size)},
            {".oft_blocks": (rng.choice((1, 2)), out // size, size, size)},
            {".oft_blocks.0": (out // size, size, size)},
        )
    )
    return parts | ({".rescale": (out, 1)} if rng.random() < 0.4 else {})


def peft_oft(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    columns = inputs * prod(kernel)
    size = rng.choice([n for n in (2, 4, 8) if columns % n == 0] or [1])
    count = rng.choice((1, columns // size))
    extra = {".oft_R.scaled_oft": ()} if rng.random() < 0.3 else {}
    return {".oft_R.weight": (count, size * (size - 1) // 2)} | extra


def peft_boft(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    columns = inputs * prod(kernel)
    size = rng.choice([n for n in (2, 4, 8) if columns % n == 0] or [1])
    return {".boft_R": (rng.choice((1, 2)), columns // size, size, size), ".boft_s": (out, 1)}


def ia3(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    n = rng.choice((out, inputs))
    return rng.choice(({".ia3_l": (n, 1)}, {".ia3_l": (1, n)}, {".weight": (n,), ".on_input": ()}))


def sparse(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    n = rng.choice((0, 1, 5))
    return {".bias_indices": (2, n), ".bias_values": (n,), ".bias_size": (2,)}


def dense(rng: Random, out: int, inputs: int, kernel: Shape) -> Parts:
    parts = {rng.choice((".diff", ".set_weight", ".w_norm")): (out, inputs, *kernel)}
    return parts | rng.choice(({}, {".diff_b": (out,)}, {".b_norm": (out,)}))


ALGORITHMS: list[Callable[[Random, int, int, Shape], Parts]] = [
    *(lora, lora, lora),
    *(loha, lokr, glora, oft, peft_oft, peft_boft, ia3, sparse, dense),
]
BESIDE: dict[str, Callable[[Random, int, int], Shape]] = {
    ".dora_scale": lambda rng, out, inputs: rng.choice(((out, 1), (1, inputs))),
    ".lora_magnitude_vector": lambda rng, out, inputs: (out,),
    ".scalar": lambda rng, out, inputs: (),
    ".reshape_weight": lambda rng, out, inputs: (2,),
    ".lora_B.bias": lambda rng, out, inputs: (out,),
    ".diff_b": lambda rng, out, inputs: (out,),
    ".diff": lambda rng, out, inputs: (out, inputs),
}


def draw(rng: Random, weights: Weights) -> dict[str, torch.Tensor]:
    """A state dict of a few modules, most of them named as ``weights`` has them."""
    tensors: dict[str, torch.Tensor] = {}
    bent = rng.choice((0.0, 0.05, 0.3))  # of the shapes
    dtype = rng.choice(DTYPES[:4])
    for _ in range(rng.randint(1, 6)):
        module = rng.choice(list(weights)) if rng.random() < 0.85 else rng.choice(ODD_NAMES)
        shape = weights.get(module) or (8, 4)
        out, inputs, *kernel = shape if len(shape) > 1 else (*shape, 4)
        parts = dict(rng.choice(ALGORITHMS)(rng, out, inputs, tuple(kernel)))
        if rng.random() < 0.6:
            parts[".alpha"] = ()
        for suffix, make in BESIDE.items():
            if rng.random() < 0.07:
                parts[suffix] = make(rng, out, inputs)
        if rng.random() < 0.1:
            parts[rng.choice(SUFFIXES)] = rng.choice(((), (out,), (out, inputs), (2, 2, 2)))
        if rng.random() < bent:
            parts.pop(rng.choice(list(parts)))
        for suffix, size in parts.items():
            size = _bend(rng, size) if rng.random() < bent else size
            tensors[module + suffix] = values(rng, suffix, size, dtype, (out, inputs))
    return tensors


def _bend(rng: Random, shape: Shape) -> Shape:
    shape = list(shape)
    match rng.randrange(6):
        case 0 if shape:
            shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 3, 7))
        case 1 if shape:
            shape[rng.randrange(len(shape))] += rng.choice((-1, 1))
        case 2:
            rng.shuffle(shape)
        case 3:
            shape = [prod(shape)]
        case 4:
            shape.insert(rng.randint(0, len(shape)), rng.choice((0, 1, 2)))
        case _:
            shape = shape[:-1]
    return tuple(max(0, n) for n in shape)


def values(rng: Random, suffix: str, shape: Shape, dtype: torch.dtype, weight: Shape) -> torch.Tensor:
    """Numbers as this kind of tensor has them, or now and then as none has."""
    generator = torch.Generator().manual_seed(rng.randrange(1 << 32))
    dtype = rng.choice(DTYPES) if rng.random() < 0.07 else dtype
    tensor = torch.randn(shape, generator=generator) * rng.choice((0.02, 0.1, 1.0))
    if suffix == ".alpha":
        tensor = torch.full(shape, rng.choice((1.0, 2.0, 0.0, -4.0)))
    elif suffix in (".reshape_weight", ".bias_size"):
        wider = rng.choice((1, 1, 2, 1 << 10, 1 << 20))
        sizes = (weight[0], weight[1] * wider)
        whole = shape == (2,)
        tensor, dtype = (torch.tensor(sizes) if whole else tensor), (torch.int64 if rng.random() < 0.8 else dtype)
    elif suffix == ".bias_indices":
        tensor, dtype = torch.randint(0, max(1, min(weight)), shape, generator=generator), torch.int64
    if rng.random() < 0.05:
        tensor = torch.full(shape, rng.choice(ODD_NUMBERS), dtype=torch.float64)
    elif rng.random() < 0.04 and tensor.numel():
        tensor = tensor.to(torch.float64)
        tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice(ODD_NUMBERS)
    return tensor.to(dtype)


def draw_metadata(rng: Random, modules: list[str]) -> dict[str, str]:
    """A header that says something, often nonsense, about these modules."""
    number = lambda: rng.choice((1, 8, 0, -1, 1.5, 10**400, float("nan"), float("inf"), True, None, "8", [8], {}))  # noqa: E731
    pattern = lambda: {  # noqa: E731
        rng.choice((*modules, "a|b", "(" * 300, "[", ".*", "(a+)+$", "\\")): number() for _ in range(rng.randrange(4))
    }
    packed = {
        f"{rng.choice(('unet', 'transformer', 'text_encoder', ''))}.{name}": value
        for name, value in (
            ("r", number()),
            ("lora_alpha", number()),
            ("alpha_pattern", pattern()),
            ("rank_pattern", pattern()),
            ("use_rslora", number()),
            ("peft_type", rng.choice(("LORA", "LOKR", "OFT", "IA3", None, 3))),
            ("num_cayley_neumann_terms", number()),
            ("feedforward_modules", rng.choice((modules[:2], "(" * 300, "x", [1], None))),
        )
        if rng.random() < 0.6
    }
    folders = rng.choice((number(), {"10_ohwx woman": {"img_count": rng.choice((2, "2", None))}}))
    known = {
        "lora_adapter_metadata": json.dumps(packed),
        "ss_network_module": "networks.lora_flux",
        "ss_network_args": rng.choice(('{"split_qkv": "True"}', "[" * 2000, "3")),
        "ss_base_model_version": rng.choice(("sdxl_base_v1-0", "flux1", "\u0000", "")),
        "modelspec.architecture": rng.choice(("flux-1-dev/lora", "stable-diffusion-v1/lora", "x" * 5000)),
        "ss_dataset_dirs": json.dumps(folders),
        "ss_tag_frequency": rng.choice((json.dumps({"10_ohwx woman": {"a": 2, "\ud83d": 2}}), "[]", "{")),
        "ss_datasets": rng.choice(('[{"subsets": [{"class_tokens": "sks, \\ud800"}]}]', '[{"subsets": {}}]', "null")),
        "modelspec.trigger_phrase": rng.choice(("a, b", ",,,", "\x00\x1b[31m", "\u202e")),
    }
    return {key: text for key, text in known.items() if rng.random() < 0.3}
