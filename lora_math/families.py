"""The one table of model families: what each is called, how ComfyUI calls it, how its LoRAs' names and widths look, its blocks.

Whoever knows something of a family asks here: which family a file was trained for (``family``), which blocks a model has that is not
loaded (``blocks.builtin``), what else a layer is called (``spellings``), which family a loaded model is (``targets``), which number
vectors a family takes (``blocks.vectors``). No torch. A family that is in no row works by its structure alone.

Sources: ComfyUI's ``supported_models`` and ``model_detection``, the published checkpoints' configurations, diffusers' models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from . import spellings
from .spellings import Dialect

SD15, SD2, SDXL, REFINER, SD3 = "SD1.5", "SD2", "SDXL", "SDXL refiner", "SD3"
FLUX, FLUX2, CHROMA, QWEN, WAN, HUNYUAN_VIDEO = "FLUX.1", "FLUX.2", "Chroma", "Qwen-Image", "Wan", "HunyuanVideo"
Z_IMAGE, LUMINA, LTXV, LTX2, HIDREAM, AURAFLOW = "Z-Image", "Lumina 2", "LTX-Video", "LTX-2", "HiDream", "AuraFlow"
HUNYUAN_IMAGE, COSMOS, LENS, MAGE_FLOW = "HunyuanImage", "Cosmos", "Lens", "Mage-Flow"
PIXART, MOCHI, PREDICT2, ANIMA, KREA2 = "PixArt", "Mochi", "Cosmos Predict2", "Anima", "Krea 2"
ACE_STEP, ACE_STEP_15 = "ACE-Step", "ACE-Step 1.5"


SCALED_LINEAR: Literal["scaled linear"] = "scaled linear"
# exp(1.15), as ComfyUI has it for FLUX.1 and what is built alike.
FLUX_SHIFT = 3.1582


@dataclass(frozen=True)
class Encoder:
    """A text encoder as ComfyUI's CLIP names it. path: of its numbered layers, below the encoder's name; depth: how many.

    width: of the vectors that go through it.
    """

    path: str
    depth: int
    width: int


_CLIP, _T5, _LLM = "transformer.text_model.encoder.layers", "transformer.encoder.block", "transformer.model.layers"
ENCODERS: Mapping[str, Encoder] = {
    "clip_l": Encoder(_CLIP, 12, 768),
    "clip_g": Encoder(_CLIP, 32, 1280),
    "clip_h": Encoder(_CLIP, 24, 1024),
    "t5xxl": Encoder(_T5, 24, 4096),
    "umt5xxl": Encoder(_T5, 24, 4096),
    "umt5base": Encoder(_T5, 12, 768),
    "pile_t5xl": Encoder(_T5, 24, 2048),
    "byt5_small": Encoder(_T5, 12, 1472),
    "llama": Encoder(_LLM, 32, 4096),
    "qwen25_7b": Encoder(_LLM, 28, 3584),
    "qwen3_4b": Encoder(_LLM, 36, 2560),
    "qwen3_06b": Encoder(_LLM, 28, 1024),
    "qwen3vl_4b": Encoder(_LLM, 36, 2560),
    "gemma2_2b": Encoder(_LLM, 26, 2304),
    "gemma3_12b": Encoder(_LLM, 48, 3840),
    "mistral3_24b": Encoder(_LLM, 40, 5120),
}
# Weights of a CLIP that stand beside its encoders, in no layer.
BESIDE_ENCODERS = ("text_embedding_projection",)


@dataclass(frozen=True)
class Signs:
    """What a LoRA for the family looks like. Patterns are for bodies (``names.model_body``) with every number between underscores as 0,
    but for UNets, whose numbers tell something.

    layers: some layer matches, "" where ``ONLY`` has the family's layers; lacks: none does; hidden: the layers that read the hidden
    width, which is one of ``Family.depths``; inputs: (layers, the widths that they may read); ratios: (layers, least, most) outputs
    for each input; own: layers by names that only the family's own trainers use, to prefer it where names and widths leave several.
    """

    layers: str
    lacks: str = ""
    hidden: str = ""
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    ratios: tuple[tuple[str, float, float], ...] = ()
    own: str = ""


@dataclass(frozen=True)
class Family:
    """One row. classes: of ComfyUI's ``supported_models``, those that end in "*" by their beginning; lists: its block lists in ComfyUI's
    names and how long they are in its largest common model, execution order; encoders: its text encoders; others: first words of what is
    in no block; style: how its main list tells two streams apart (``blocks.parts``), "" where the names themselves do.

    depths: hidden width -> lengths of the lists that differ from ``lists`` there; the first width is that of ``lists``.
    header: what ``modelspec.architecture`` or ``ss_base_model_version`` begins with; word: in front of a block's number.
    base_version, architecture: what a saved LoRA's header calls it, as kohya's ``ss_base_model_version`` and as SwarmUI and Stability's
    ModelSpec have it (Forge tells SDXL by the first); marks: what kohya writes besides. saved_as: the names that most programs read of it,
    ComfyUI, Forge, InvokeAI, SwarmUI and the trainers counted; kohya_bodies: whose names for layers kohya has behind its own prefix.
    vectors: lengths of the public number vectors; dialects: layer names in other libraries (``spellings``), where ComfyUI's own key map
    lacks them; relatives: families whose LoRAs are at home here, layer by layer; noise: how it falls over a sampling (``noise.py``), the
    shift of a flow model or SCALED_LINEAR; gaps: column -> why it is empty.
    """

    name: str
    classes: tuple[str, ...]
    signs: Signs
    lists: Mapping[str, int] = field(default_factory=dict)
    encoders: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    style: str = ""
    depths: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    header: str = ""
    word: str = ""
    vectors: tuple[int, ...] = ()
    dialects: tuple[Dialect, ...] = ()
    relatives: tuple[str, ...] = ()
    base_version: str = ""
    architecture: str = ""
    marks: Mapping[str, str] = field(default_factory=dict)
    saved_as: Literal["comfyui", "kohya", "diffusers"] = "comfyui"
    kohya_bodies: Literal["comfyui", "diffusers"] = "comfyui"
    noise: float | Literal["scaled linear"] | None = None
    gaps: Mapping[str, str] = field(default_factory=dict)


_UNET = r"(down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks)_"
_FULL_SIZE = r"^(down_blocks_0_attentions|input_blocks_[12]_1|up_blocks_3_attentions|output_blocks_(9|10|11)_1)_"
_CONTEXT = r"attn2_to_[kv]$"
_UNET12 = {"input_blocks": 12, "middle_block": 3, "output_blocks": 12}
_UNET9 = {"input_blocks": 9, "middle_block": 3, "output_blocks": 9}
_UNET_OTHERS = ("time_embed", "label_emb", "out")

# Two streams and then one: Black Forest Labs' skeleton, in its own names and in diffusers'.
_TWO_STREAMS = r"^(double|single)_blocks_0_|^single_transformer_blocks_0_|^transformer_blocks_0_(attn_|ff_|norm1_)"
_READS_HIDDEN = (
    r"_(img_attn_(qkv|proj|[qkv])|attn_(to|add)_[qkv](_proj)?|attn_to_(qkv|out_0|add_out)|(img_|txt_)?mlp_(0|fc1)"
    r"|linear1|proj_mlp|ff_net_0_proj)$"
)
_BLOCK_MODULATION = (
    r"_(img_mod|txt_mod|modulation)_lin(ear)?$|_norm1(_context)?_linear$|^single_transformer_blocks_0_norm_linear$"
)
_QWEN_LAYERS = r"^transformer_blocks_0_(img|txt)_(mlp|mod)_"
_SINGLE = r"^single_|^double_"
_SQUARE = ((r"_attn_to_[kv]$", 1, 1),)
# AuraFlow's blocks of one stream; all others of this skeleton have "norm".
_SINGLE_NORM1 = r"^single_transformer_blocks_0_norm1_"
_PLAIN_MLP = ((r"_linear1$", 6.9, 7.1), (r"_(img|txt)_mlp_0$", 3.9, 4.1), (r"_attn_to_[kv]$", 1, 1))
_GATED_MLP = ((r"_linear1$", 8.9, 9.1), (r"_(img|txt)_mlp_0$", 5.9, 6.1), (r"_attn_to_[kv]$", 1, 1))
_FLUX_OTHERS = ("img_in", "time_in", "vector_in", "guidance_in", "txt_in", "final_layer")
_DIT_OTHERS = ("x_embedder", "t_embedder", "t_embedding_norm", "final_layer")
# One stream with self and cross attention, in diffusers' names.
_SELF_AND_CROSS = r"^transformer_blocks_0_(attn[12]|norm[123]|ff)_"
_ADALN = r"^transformer_blocks_0_norm[123]_linear_[12]$"
_OWN_PREDICT2 = r"^blocks_0_((self|cross)_attn_(\w_proj|output_proj)|adaln_modulation_|mlp_layer\d)"
_READS_HIDDEN_2 = r"attn1_(to_[qkv]|to_out_0)$|self_attn_[qkv]_proj$|mlp_layer1$|attn2_to_q$|cross_attn_q_proj$"
_NEXTDIT = r"^(layers|noise_refiner|context_refiner)_0_(attention|attn|feed_forward|adaLN_modulation)_"
_READS_HIDDEN_3 = r"(attention|attn)_(qkv|out|to_[qkv]|to_out_0)$|feed_forward_(w|linear_)[13]$"
_NO_VECTORS = "no other tool has vectors for it: one entry for each block"
_CORE = "ComfyUI's own key map has every name that trainers use"
_NO_HEADER = "no trainer writes a name for it into headers"
_UNNAMED = "neither kohya nor ModelSpec has a name for it: its own is written"
_UNSAID = {"base_version": _UNNAMED, "architecture": _UNNAMED}
_NOISE_OF_ITS_OWN = "it falls in its own way, goes with the size of the picture, or was not compared with ComfyUI"
_PLAIN = {"vectors": _NO_VECTORS, "dialects": _CORE}

TABLE: tuple[Family, ...] = (
    Family(
        SD15,
        ("SD15", "SD15_instructpix2pix"),
        Signs(_UNET, r"transformer_blocks_[1-9]_", inputs=((_CONTEXT, (768,)),)),
        _UNET12,
        ("clip_l",),
        ("time_embed", "out"),
        header=r"stable-diffusion-v1|^sd-?v?1",
        vectors=(17, 26, 27),
        base_version="sd_v1",
        architecture="stable-diffusion-v1",
        saved_as="kohya",
        kohya_bodies="diffusers",
        gaps={"dialects": _CORE, "depths": "one size"},
        noise=SCALED_LINEAR,
    ),
    Family(
        SD2,
        ("SD20", "SD21UnclipL", "SD21UnclipH", "LotusD"),
        Signs(_UNET, r"transformer_blocks_[1-9]_", inputs=((_CONTEXT, (1024,)),)),
        _UNET12,
        ("clip_h",),
        ("time_embed", "out"),
        header=r"stable-diffusion-v2|^sd-?v?2",
        vectors=(17, 26, 27),
        base_version="sd_v2",
        architecture="stable-diffusion-v2-768-v",
        saved_as="kohya",
        kohya_bodies="diffusers",
        marks={"ss_v2": "True"},
        gaps={"dialects": _CORE, "depths": "one size"},
        noise=SCALED_LINEAR,
    ),
    Family(
        SDXL,
        ("SDXL", "SDXL_instructpix2pix", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B"),
        Signs(_UNET, _FULL_SIZE, inputs=((_CONTEXT, (2048,)),)),
        _UNET9,
        ("clip_l", "clip_g"),
        _UNET_OTHERS,
        header=r"stable-diffusion-xl-v1(?!-refiner)|^sdxl(?!-refiner)|^(illustrious|pony|noob)",
        vectors=(12, 20, 21),
        base_version="sdxl_base_v1-0",
        architecture="stable-diffusion-xl-v1-base",
        saved_as="kohya",
        gaps={"dialects": _CORE, "depths": "one size; its distilled models lack blocks in the middle of lists"},
        noise=SCALED_LINEAR,
    ),
    Family(
        REFINER,
        ("SDXLRefiner",),
        Signs(_UNET, rf"{_FULL_SIZE}|transformer_blocks_[4-9]_", inputs=((_CONTEXT, (1280,)),)),
        _UNET12,
        ("clip_g",),
        _UNET_OTHERS,
        header=r"stable-diffusion-xl-v1-refiner|^sdxl-refiner",
        vectors=(26, 27),
        gaps={**_UNSAID, "dialects": _CORE, "depths": "one size"},
        noise=SCALED_LINEAR,
    ),
    Family(
        SD3,
        ("SD3",),
        Signs(
            r"^transformer_blocks_0_(attn2?_|ff_|norm1_)", rf"{_SINGLE}|{_QWEN_LAYERS}", _READS_HIDDEN, ratios=_SQUARE
        ),
        {"joint_blocks": 24},
        ("clip_l", "clip_g", "t5xxl"),
        ("pos_embed", "x_embedder", "t_embedder", "y_embedder", "context_embedder", "final_layer"),
        depths={1536: {}, 2432: {"joint_blocks": 38}},
        header=r"stable-diffusion-3|stable-diffusion-v3|^sd-?3",
        base_version="sd3",
        architecture="stable-diffusion-v3.5-large",
        gaps=_PLAIN,
        noise=3.0,
    ),
    Family(
        FLUX,
        ("Flux", "FluxInpaint", "FluxSchnell"),
        Signs(_TWO_STREAMS, f"{_QWEN_LAYERS}|{_SINGLE_NORM1}", _READS_HIDDEN, ratios=_PLAIN_MLP, own=_BLOCK_MODULATION),
        {"double_blocks": 19, "single_blocks": 38},
        ("clip_l", "t5xxl"),
        _FLUX_OTHERS,
        depths={3072: {}},
        header=r"flux[.-]?1|^flux(?![.-]?2)",
        vectors=(19, 20, 58, 61),
        relatives=(CHROMA,),
        base_version="flux1",
        architecture="Flux.1-dev",
        saved_as="kohya",
        gaps={"dialects": _CORE},
        noise=FLUX_SHIFT,
    ),
    Family(
        CHROMA,
        ("Chroma", "ChromaRadiance"),
        Signs(_TWO_STREAMS, f"{_QWEN_LAYERS}|{_SINGLE_NORM1}|{_BLOCK_MODULATION}", _READS_HIDDEN, ratios=_PLAIN_MLP),
        {"distilled_guidance_layer.layers": 5, "double_blocks": 19, "single_blocks": 38},
        ("t5xxl",),
        ("img_in", "txt_in", "distilled_guidance_layer", "final_layer"),
        depths={3072: {}},
        header=r"^chroma",
        vectors=(19, 20, 58, 61),
        dialects=(spellings.CHROMA,),
        relatives=(FLUX,),
        base_version="chroma",
        architecture="chroma",
        noise=FLUX_SHIFT,
    ),
    Family(
        FLUX2,
        ("Flux2",),
        Signs(
            _TWO_STREAMS,
            f"{_QWEN_LAYERS}|{_SINGLE_NORM1}|{_BLOCK_MODULATION}|_ff_(context_)?net_|_proj_mlp$",
            _READS_HIDDEN,
            ratios=_GATED_MLP,
        ),
        {"double_blocks": 8, "single_blocks": 48},
        ("mistral3_24b",),
        (
            *("img_in", "time_in", "guidance_in", "txt_in", "final_layer"),
            *("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"),
        ),
        depths={
            6144: {},
            4096: {"double_blocks": 8, "single_blocks": 24},
            3072: {"double_blocks": 5, "single_blocks": 20},
        },
        header=r"flux[.-]?2",
        dialects=(spellings.FLUX2,),
        base_version="flux2",
        architecture="flux.2-dev",
        gaps={"vectors": _NO_VECTORS},
        noise=7.5383,
    ),
    Family(
        QWEN,
        ("QwenImage",),
        Signs(
            r"^transformer_blocks_0_(attn_(to|add)_|(img|txt)_(mlp|mod)_)",
            rf"{_SINGLE}|^transformer_blocks_0_(ff_|norm1_)|(img|txt)_mlp_w\d",
            rf"{_READS_HIDDEN}|(img|txt)_(mlp_net_0_proj|mod_1)$",
            ratios=_SQUARE,
        ),
        {"transformer_blocks": 60},
        ("qwen25_7b",),
        ("time_text_embed", "txt_norm", "img_in", "txt_in", "norm_out", "proj_out"),
        "added",
        {3072: {}},
        r"^qwen-?image",
        base_version="qwen_image",
        architecture="qwen-image",
        saved_as="diffusers",
        gaps=_PLAIN,
        noise=FLUX_SHIFT,
    ),
    Family(
        WAN,
        ("WAN21*", "WAN22*"),
        Signs(""),
        {"blocks": 40},
        ("umt5xxl",),
        (*("patch_embedding", "text_embedding", "time_embedding", "time_projection", "head", "img_emb"),),
        depths={5120: {}, 3072: {"blocks": 30}, 1536: {"blocks": 30}},
        header=r"^wan",
        dialects=(spellings.WAN,),
        base_version="wan2.1",
        architecture="wan-2_1-text2video-14b",
        gaps={"vectors": _NO_VECTORS},
        noise=8.0,
    ),
    Family(
        HUNYUAN_VIDEO,
        ("HunyuanVideo*",),
        Signs(_TWO_STREAMS, f"{_QWEN_LAYERS}|{_SINGLE_NORM1}", _READS_HIDDEN, ratios=_PLAIN_MLP),
        {"txt_in.individual_token_refiner.blocks": 2, "double_blocks": 20, "single_blocks": 40},
        ("clip_l", "llama"),
        _FLUX_OTHERS,
        depths={3072: {}, 2048: {"double_blocks": 54, "single_blocks": 0}},
        header=r"^hunyuan-?video|^framepack",
        dialects=(
            *(spellings.TENCENT, spellings.TENCENT_SPLIT),
            *(spellings.HUNYUAN_DIFFUSERS, spellings.HUNYUAN_15_DIFFUSERS),
        ),
        base_version="hunyuan_video",
        architecture="hunyuan-video",
        gaps={"vectors": _NO_VECTORS},
        noise=7.0,
    ),
    Family(
        HUNYUAN_IMAGE,
        ("HunyuanImage*",),
        Signs(_TWO_STREAMS, f"{_QWEN_LAYERS}|{_SINGLE_NORM1}", _READS_HIDDEN, ratios=_PLAIN_MLP),
        {"txt_in.individual_token_refiner.blocks": 2, "double_blocks": 20, "single_blocks": 40},
        ("qwen25_7b", "byt5_small"),
        ("img_in", "time_in", "guidance_in", "txt_in", "byt5_in", "final_layer"),
        depths={3584: {}},
        header=r"^hunyuan-?image",
        dialects=(spellings.TENCENT, spellings.TENCENT_SPLIT, spellings.HUNYUAN_DIFFUSERS),
        gaps={"noise": _NOISE_OF_ITS_OWN, **_UNSAID, "vectors": _NO_VECTORS},
    ),
    Family(
        Z_IMAGE,
        ("ZImage", "ZImagePixelSpace"),
        Signs(_NEXTDIT, hidden=_READS_HIDDEN_3),
        {"context_refiner": 2, "noise_refiner": 2, "layers": 30},
        ("qwen3_4b",),
        ("x_pad_token", "cap_pad_token", "x_embedder", "t_embedder", "cap_embedder", "final_layer"),
        depths={3840: {}},
        header=r"^z-?image",
        relatives=(LUMINA,),
        base_version="z_image",
        architecture="z-image",
        saved_as="diffusers",
        gaps=_PLAIN,
        noise=3.0,
    ),
    Family(
        LUMINA,
        ("Lumina2",),
        Signs(_NEXTDIT, hidden=_READS_HIDDEN_3),
        {"context_refiner": 2, "noise_refiner": 2, "layers": 26},
        ("gemma2_2b",),
        ("x_embedder", "t_embedder", "cap_embedder", "final_layer"),
        depths={2304: {}},
        header=r"^lumina",
        dialects=(spellings.LUMINA, spellings.LUMINA_SPLIT),
        relatives=(Z_IMAGE,),
        gaps={**_UNSAID, "vectors": _NO_VECTORS},
        noise=6.0,
    ),
    Family(
        LTXV,
        ("LTXV",),
        Signs(_SELF_AND_CROSS, _ADALN, _READS_HIDDEN_2, ((_CONTEXT, (2048, 4096)),)),
        {"transformer_blocks": 28},
        ("t5xxl",),
        ("scale_shift_table", "patchify_proj", "adaln_single", "caption_projection", "proj_out"),
        depths={2048: {}, 4096: {"transformer_blocks": 48}},
        header=r"^(lightricks-)?ltx(?!-?v?(ideo)?-?2(?!b))",
        dialects=(spellings.LTX,),
        relatives=(LTX2,),
        gaps={"noise": _NOISE_OF_ITS_OWN, **_UNSAID, "vectors": _NO_VECTORS},
    ),
    Family(
        LTX2,
        ("LTXAV",),
        Signs(_SELF_AND_CROSS, _ADALN, _READS_HIDDEN_2, ((_CONTEXT, (4096,)),)),
        {
            "video_embeddings_connector.transformer_1d_blocks": 2,
            "audio_embeddings_connector.transformer_1d_blocks": 2,
            "transformer_blocks": 48,
        },
        ("gemma3_12b",),
        (
            *("scale_shift_table", "audio_scale_shift_table", "patchify_proj", "adaln_single", "caption_projection"),
            *("audio_patchify_proj", "audio_adaln_single", "audio_caption_projection", "proj_out", "audio_proj_out"),
        ),
        "audio",
        {4096: {}},
        r"^(lightricks-)?ltx-?v?(ideo)?-?2(?!b)",
        dialects=(spellings.LTX,),
        relatives=(LTXV,),
        base_version="ltx2",
        architecture="lightricks-ltx-video-2",
        gaps={"noise": _NOISE_OF_ITS_OWN, "vectors": _NO_VECTORS},
    ),
    Family(
        HIDREAM,
        ("HiDream",),
        Signs(""),
        {"double_stream_blocks": 16, "single_stream_blocks": 32},
        ("clip_l", "clip_g", "t5xxl", "llama"),
        ("t_embedder", "p_embedder", "x_embedder", "final_layer", "caption_projection"),
        "suffix_t",
        {2560: {}},
        r"^hidream(?!-o1)",
        base_version="hidream",
        architecture="hidream-i1",
        gaps=_PLAIN,
        noise=1.0,
    ),
    Family(
        AURAFLOW,
        ("AuraFlow",),
        Signs(
            r"^single_transformer_blocks_0_(attn_|norm1_)",
            r"^double_|^single_blocks_|^transformer_blocks_|_proj_(mlp|out)$|_norm_linear$|_attn_to_qkv$",
            _READS_HIDDEN,
            ratios=_SQUARE,
        ),
        {"double_layers": 4, "single_layers": 32},
        ("pile_t5xl",),
        (
            *("positional_encoding", "register_tokens", "t_embedder", "cond_seq_linear"),
            *("init_x_linear", "final_linear", "modF"),
        ),
        "aura",
        {3072: {}},
        r"^aura-?flow",
        gaps={**_PLAIN, **_UNSAID},
        noise=1.73,
    ),
    Family(
        PIXART,
        ("PixArtAlpha", "PixArtSigma"),
        Signs(_SELF_AND_CROSS, _ADALN, _READS_HIDDEN_2, ((_CONTEXT, (1152,)),)),
        {"blocks": 28},
        ("t5xxl",),
        ("t_block", "x_embedder", "t_embedder", "y_embedder", "csize_embedder", "ar_embedder", "final_layer"),
        depths={1152: {}},
        header=r"^pixart",
        gaps={"noise": _NOISE_OF_ITS_OWN, **_PLAIN, **_UNSAID},
    ),
    Family(
        MOCHI,
        ("GenmoMochi",),
        Signs(
            r"^transformer_blocks_0_(attn1|ff|ff_context|norm1|norm1_context)_",
            rf"{_SINGLE}|{_ADALN}|{_QWEN_LAYERS}|^transformer_blocks_0_(attn|attn2|norm[23])_",
            rf"{_READS_HIDDEN_2}|_ff_net_0_proj$",
        ),
        {"blocks": 48},
        ("t5xxl",),
        ("x_embedder", "t_embedder", "t5_y_embedder", "t5_yproj", "final_layer"),
        "xy",
        {3072: {}},
        dialects=(spellings.MOCHI,),
        gaps={**_UNSAID, "vectors": _NO_VECTORS, "header": _NO_HEADER},
        noise=6.0,
    ),
    Family(
        COSMOS,
        ("CosmosT2V", "CosmosI2V"),
        Signs(_SELF_AND_CROSS, hidden=_READS_HIDDEN_2, inputs=((_CONTEXT, (1024,)),)),
        {"blocks": 28},
        ("t5xxl",),
        ("x_embedder", "extra_pos_embedder", "t_embedder", "affline_norm", "final_layer"),
        depths={4096: {}, 5120: {"blocks": 36}},
        word="block",
        dialects=(spellings.COSMOS,),
        gaps={"noise": _NOISE_OF_ITS_OWN, **_UNSAID, "vectors": _NO_VECTORS, "header": _NO_HEADER},
    ),
    Family(
        PREDICT2,
        ("CosmosT2IPredict2", "CosmosI2VPredict2"),
        Signs(f"{_SELF_AND_CROSS}|{_OWN_PREDICT2}", hidden=_READS_HIDDEN_2, inputs=((_CONTEXT, (1024,)),)),
        {"blocks": 28},
        ("t5xxl",),
        _DIT_OTHERS,
        depths={2048: {}, 5120: {"blocks": 36}},
        dialects=(spellings.PREDICT2,),
        relatives=(ANIMA,),
        gaps={"noise": _NOISE_OF_ITS_OWN, **_UNSAID, "vectors": _NO_VECTORS, "header": _NO_HEADER},
    ),
    Family(
        ANIMA,
        ("Anima",),
        Signs(f"{_SELF_AND_CROSS}|{_OWN_PREDICT2}", hidden=_READS_HIDDEN_2, inputs=((_CONTEXT, (1024,)),)),
        {"llm_adapter.blocks": 6, "blocks": 28},
        ("qwen3_06b",),
        (*_DIT_OTHERS, "llm_adapter"),
        depths={2048: {}},
        header=r"^anima",
        dialects=(spellings.PREDICT2, spellings.ANIMA),
        relatives=(PREDICT2,),
        base_version="anima",
        architecture="anima",
        gaps={"vectors": _NO_VECTORS},
        noise=3.0,
    ),
    Family(
        KREA2,
        ("Krea2",),
        Signs(
            r"^transformer_blocks_0_attn_to_",
            rf"{_SINGLE}|{_QWEN_LAYERS}|_add_|_ff_|_norm1_",
            _READS_HIDDEN,
            ratios=((r"_attn_to_[kv]$", 0, 0.9),),
        ),
        {"txtfusion.layerwise_blocks": 2, "txtfusion.refiner_blocks": 2, "blocks": 28},
        ("qwen3vl_4b",),
        ("first", "tmlp", "txtfusion", "txtmlp", "last", "tproj"),
        depths={6144: {}},
        header=r"^krea-?2",
        base_version="krea2",
        architecture="krea-2",
        gaps=_PLAIN,
        noise=FLUX_SHIFT,
    ),
    Family(
        ACE_STEP,
        ("ACEStep",),
        Signs(""),
        {"lyric_encoder.encoders": 6, "transformer_blocks": 24},
        ("umt5base",),
        (
            *("timestep_embedder", "t_block", "speaker_embedder", "genre_embedder", "lyric_embs", "lyric_encoder"),
            *("lyric_proj", "projectors", "final_layer", "proj_in"),
        ),
        depths={2560: {}},
        gaps={**_UNSAID, **_PLAIN, "header": _NO_HEADER},
        noise=3.0,
    ),
    Family(
        ACE_STEP_15,
        ("ACEStep15",),
        Signs(""),
        {
            "encoder.lyric_encoder.layers": 8,
            "encoder.timbre_encoder.layers": 4,
            "tokenizer.attention_pooler.layers": 2,
            "detokenizer.layers": 2,
            "decoder.layers": 24,
        },
        ("qwen3_06b",),
        ("null_condition_emb", "decoder", "encoder", "tokenizer", "detokenizer"),
        depths={2048: {}},
        dialects=(spellings.ACE_STEP_15,),
        gaps={**_UNSAID, "vectors": _NO_VECTORS, "header": _NO_HEADER},
        noise=3.0,
    ),
    Family(
        LENS,
        ("Lens",),
        Signs(
            r"^transformer_blocks_0_(attn_(to|add)_|(img|txt)_(mlp|mod)_)",
            rf"{_SINGLE}|^transformer_blocks_0_(ff_|norm1_)|(img|txt)_mlp_net",
            rf"{_READS_HIDDEN}|(img|txt)_mod_1$",
            ratios=_SQUARE,
        ),
        {"transformer_blocks": 48},
        style="added",
        depths={1536: {}},
        gaps={
            "noise": _NOISE_OF_ITS_OWN,
            **_UNSAID,
            **_PLAIN,
            "header": _NO_HEADER,
            "encoders": "only ComfyUI's own gpt_oss, for which nobody trains",
            "others": "its layout comes from the loaded model",
        },
    ),
    Family(
        MAGE_FLOW,
        ("MageFlow",),
        Signs(
            r"^transformer_blocks_0_(attn_(to|add)_|(img|txt)_(mlp|mod)_)",
            rf"{_SINGLE}|^transformer_blocks_0_(ff_|norm1_)|(img|txt)_mlp_w\d",
            rf"{_READS_HIDDEN}|(img|txt)_(mlp_net_0_proj|mod_1)$",
            ratios=_SQUARE,
        ),
        {"transformer_blocks": 12},
        style="added",
        depths={3072: {}},
        gaps={
            "noise": _NOISE_OF_ITS_OWN,
            **_UNSAID,
            **_PLAIN,
            "header": _NO_HEADER,
            "encoders": "its layout comes from the loaded model",
            "others": "its layout comes from the loaded model",
        },
    ),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in TABLE}

# A layer that only one family has, None for those that no row is about. In order: the first hit decides.
ONLY: tuple[tuple[str, str | None], ...] = (
    # Video models on the UNet's skeleton.
    (rf"{_UNET}.*(time_stack|time_mixer|temporal|motion_module)", None),
    (
        r"audio_attn1|audio_ff_|audio_to_video_attn|video_to_audio_attn|^av_(ca|cross_attn)_|^audio_(adaln_single|time_embed)",
        LTX2,
    ),
    (r"^(double|single)_stream_blocks_\d", HIDREAM),
    # JoyImage.
    (r"^double_blocks_\d+_attn_(img|txt)_attn_", None),
    (r"^joint_blocks_\d", SD3),
    (
        r"^joint_transformer_blocks_\d|^(double|single)_layers_\d+_(attn_w\d|mlp)|^single_transformer_blocks_\d+_ff_",
        AURAFLOW,
    ),
    (r"^(llm_adapter|text_conditioner)_blocks_\d", ANIMA),
    (
        r"^txtfusion_|^txtmlp_|^text_fusion_|^blocks_\d+_attn_w[qkvo]$|^transformer_blocks_\d+_(attn_to_gate|ff_(gate|up|down))$",
        KREA2,
    ),
    (
        r"^blocks_\d+_(attn_(qkv|proj)_[xy]|mlp_[xy]_w\d|mod_[xy])$|^transformer_blocks_\d+_attn1_(add_[qkv]_proj|to_add_out)$",
        MOCHI,
    ),
    (r"^(vace_)?blocks_\d+_(self_attn|cross_attn)_[qkvo]$|^blocks_\d+_(cross_attn_[kv]_img|ffn_[02])$", WAN),
    (r"^(vace_)?blocks_\d+_(attn[12]_(to_[qkv]|to_out_0|add_[kv]_proj)|ffn_net_\d)", WAN),
    (r"^blocks_block\d+_blocks_\d+_", COSMOS),
    (r"^blocks_\d+_(attn_qkv|cross_attn_(q|kv)_linear)$", PIXART),
    (r"^(double_stream_modulation_(img|txt)|single_stream_modulation)_|attn_to_qkv_mlp_proj$", FLUX2),
    (r"^single_transformer_blocks_\d+_attn_to_out$|^transformer_blocks_\d+_ff(_context)?_linear_(in|out)$", FLUX2),
    (r"^distilled_guidance_layer_", CHROMA),
    (r"^transformer_blocks_\d+_(attn_(img|txt)_qkv|(img|txt)_mlp_w\d)$", LENS),
    # Stable Audio.
    (r"^layers_\d+_(self_attn_to_qkv|cross_attn_to_kv)$", None),
    (r"^encoder_(lyric|timbre)_encoder_|^(decoder_)?layers_\d+_(self|cross)_attn_(to_[qkv]|[qkv]_proj)$", ACE_STEP_15),
    (
        r"lyric_encoder|speaker_embedder|genre_embedder|^transformer_blocks_\d+_(cross_attn_|ff_(inverted|depth|point)_conv)",
        ACE_STEP,
    ),
)

# Families whose LoRAs are at home in each other's models, layer by layer.
RELATIVES = tuple({frozenset((row.name, *row.relatives)): None for row in TABLE if row.relatives})

# What an empty text shows before anything says which model it is for.
DEFAULT = SDXL


def related(one: str | None, other: str | None) -> bool:
    """Whether a LoRA for one family is at home in the other's models, layer by layer."""
    return one == other or any({one, other} <= group for group in RELATIVES)


def of_class(name: str) -> str | None:
    """The family of a class of ComfyUI's ``supported_models``, None for a class that no row names.

    >>> of_class("WAN22_Animate"), of_class("WAN_Animate2")
    ('Wan', None)
    """
    if name in _BY_CLASS:
        return _BY_CLASS[name]
    return next((family for start, family in _BY_START if name.startswith(start)), None)


_BY_CLASS = {name: family.name for family in TABLE for name in family.classes if not name.endswith("*")}
_BY_START = tuple((name[:-1], family.name) for family in TABLE for name in family.classes if name.endswith("*"))
