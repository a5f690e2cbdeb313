"""What a weight does inside its block: the component (attn, mlp ...) and the stream (img, txt, video, audio).

Read from the names that ComfyUI's own models use; a name that says nothing has no component and no stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from ..names import MAX_NAME

_NAME = re.compile(r"[\w.]*")
_WORD = r"(?:^|\.)(?:%s)(?:\.|$)"


def _names(*patterns: str) -> re.Pattern[str]:
    return re.compile(_WORD % "|".join(patterns))


# In order: the first hit decides. ``norm1.linear`` is a modulation that carries a norm's name (OmniGen2,
# CogVideoX).
# The last one is of SD3.5 medium: a second self-attention, not a cross-attention.
_COMPONENTS = (
    (
        "mod",
        re.compile(
            _WORD % r"\w*mod|mod_[xy]|mod[CX]+|\w*modulation\w*|ada|ada\w*_proj|\w*scale_shift_table\w*|emb_layers"
            r"|param_generator|\w*norm[0-9]?\.linear"
        ),
    ),
    ("norm", _names(r"\w*norm\w*", r"ln_[qk]", r"\w+_ln", r"in_layers\.0", r"out_layers\.0")),
    ("a2v", _names("audio_to_video_attn")),
    ("v2a", _names("video_to_audio_attn")),
    (
        "attn",
        re.compile(r"^x_block\.attn2\."),
    ),
    ("cross", _names(r"\w*cross_att\w*", r"(?:audio_)?attn2")),
    (
        "attn",
        _names(r"\w*attn\w*", r"\w*attention\w*", "SelfAttention", "EncDecAttention", "q", "k", "v", "o"),
    ),
    (
        "mlp",
        _names(r"\w*mlp\w*", r"(?:\w+_)?ffn?(?:_\w+)?", r"\w*feed_forward\w*", r"Dense\w+", r"layer[12]"),
    ),
    ("mlp", _names(r"linear[12]")),
    ("conv", _names("in_layers", "out_layers", "skip_connection", "op", r"conv\w*")),
    ("proj", _names("proj_in", "proj_out", "before_proj", "after_proj")),
)
_CROSS_GROUPS = re.compile(r"injector$|fuser_blocks$")
_FUSED = re.compile(r"^linear[12]\.")

# How a list of blocks tells its two streams apart, seen in the names of its own weights.
_STREAM_STYLES = (
    # Qwen-Image, Lens and Mage-Flow.
    ("added", re.compile(r"^attn\.(add_[qkv]_proj|norm_added_[qk])\.")),
    ("aura", re.compile(r"^mlpC\.")),
    # HiDream.
    ("suffix_t", re.compile(r"\.to_q_t\.")),
    # Mochi and PixelDiT.
    ("xy", re.compile(r"^attn\.qkv_y\.")),
    # Boogu.
    ("instruct", re.compile(r"^instruct_")),
    # LTX-2.
    ("audio", re.compile(r"^audio_attn1\.")),
)
_PLAIN_STREAM = re.compile(r"(?:^|\.)(?:(?P<img>img_\w+|x_block|vid)|(?P<txt>txt_\w+|context_block|txt))(?:\.|$)")
_ADDED_TXT = _names(r"add_[qkv]_proj", "to_add_out", r"norm_added_[qk]")
_ADDED_IMG = re.compile(r"^attn\.(to_[qkv]|to_out|norm_[qk])\.")
_AURA_TXT = _names("mlpC", "modC", r"w1[qkvo]")
_AURA_IMG = _names("mlpX", "modX", r"w2[qkvo]")
_XY = re.compile(r"(?:^|\.)\w*_(?P<axis>[xy])[0-9]?(?:\.|$)|_modulation_(?P<name>img|txt)\.")


def stream_style(rests: Iterable[str]) -> str:
    """The style of a list of blocks, from its weights' names below the block ("" if plain)."""
    rests = list(rests)
    return next((style for style, pattern in _STREAM_STYLES if any(map(pattern.search, rests))), "")


def classify(path: str, rest: str, style: str) -> tuple[str | None, str | None]:
    """(component, stream) of the weight ``rest`` in a block of the list ``path``.

    Of words and dots alone, and of no more than a name has: on anything else a stranger's file could make the patterns go back and forth.
    """
    return _classify(path, rest, style) if len(rest) <= MAX_NAME and _NAME.fullmatch(rest) else (None, None)


@lru_cache(maxsize=65536)
def _classify(path: str, rest: str, style: str) -> tuple[str | None, str | None]:
    return _component(path, rest), _stream(path, rest, style)


def _component(path: str, rest: str) -> str | None:
    if path == "input_blocks" and re.match(r"0\.(weight|bias)$", rest):
        return "conv"
    if path.startswith("single_") and _FUSED.match(rest):
        # In FLUX attention and MLP share linear1 and linear2.
        return "fused"
    # The three layers of a block of Cosmos 1 are full attention, cross attention and MLP.
    if path == "blocks" and (match := re.match(r"blocks\.([0-9])\.block\.", rest)):
        return "norm" if "norm" in rest else ("attn", "cross", "mlp")[min(int(match[1]), 2)]
    if path.endswith("adain_layers"):
        return "mod"
    component = next((name for name, pattern in _COMPONENTS if pattern.search(rest)), None)
    return "cross" if _CROSS_GROUPS.search(path) and component != "norm" else component


def _stream(path: str, rest: str, style: str) -> str | None:
    if path.startswith(("audio_embeddings", "video_embeddings")):
        return path[:5]
    if style == "audio":
        if "audio_to_video_attn" in rest or rest.endswith("a2v_ca_video"):
            return "video"
        return "audio" if "audio" in rest else "video"
    if style == "added" and (_ADDED_TXT.search(rest) or _ADDED_IMG.match(rest)):
        return "txt" if _ADDED_TXT.search(rest) else "img"
    if style == "aura":
        return "txt" if _AURA_TXT.search(rest) else "img" if _AURA_IMG.search(rest) else None
    if style == "suffix_t":
        if re.search(r"(?:_t|ff_t)\.", rest):
            return "txt"
        return "img" if re.search(r"\.(attn1|ff_i)\.", rest) else None
    if style == "xy":
        match = _XY.search(rest)
        return match and (match["name"] or {"x": "img", "y": "txt"}[match["axis"]])
    if style == "instruct":
        # It is one attention over both streams: only its projections have a side.
        if rest.startswith("img_instruct_attn."):
            match = re.search(r"processor\.(img|instruct)_", rest)
            return match and {"img": "img", "instruct": "txt"}[match[1]]
        return "txt" if rest.startswith("instruct_") else "img" if rest.startswith("img_") else None
    match = _PLAIN_STREAM.search(rest)
    return match and match.lastgroup
