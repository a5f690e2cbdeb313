"""How a LoRA was trained, as its header tells it, for people to read: kohya's ``ss_`` keys, ModelSpec, OneTrainer's and ai-toolkit's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

MAX_TEXT = 120
# The most characters of one field.
MAX_JSON = 4_000_000
MAX_DATASETS = 8

# label -> keys of the header, the first that says something counts
_PLAIN = (
    ("title", ("modelspec.title", "ss_output_name", "name")),
    ("author", ("modelspec.author",)),
    ("base model", ("ss_sd_model_name", "ss_base_model_version", "base_model", "modelspec.architecture")),
    ("network", ("ss_network_module",)),
    ("steps", ("ss_steps", "ss_max_train_steps")),
    ("epochs", ("ss_epoch", "ss_num_epochs")),
    ("pictures", ("ss_num_train_images",)),
    ("batch size", ("ss_total_batch_size", "ss_batch_size_per_device")),
    ("resolution", ("modelspec.resolution", "ss_resolution")),
    ("learning rate", ("ss_learning_rate",)),
    ("learning rate, model", ("ss_unet_lr",)),
    ("learning rate, text encoders", ("ss_text_encoder_lr",)),
    ("optimizer", ("ss_optimizer",)),
    ("schedule", ("ss_lr_scheduler",)),
    ("noise offset", ("ss_noise_offset",)),
    ("min SNR gamma", ("ss_min_snr_gamma",)),
    ("precision", ("ss_mixed_precision",)),
    ("seed", ("ss_seed",)),
    ("clip skip", ("ss_clip_skip",)),
    ("date", ("modelspec.date",)),
)
_NOTHING = ("", "none", "null", "nan", "{}", "[]")


def training_facts(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """(label, value) of what the header tells, in the order in which people ask; nothing of what it does not tell."""
    found = []
    for label, keys in _PLAIN:
        value = next((text for key in keys if (text := _said(metadata.get(key))) is not None), None)
        if value is not None:
            found.append((label, value))
    found.extend(("dataset", line) for line in _datasets(metadata.get("ss_dataset_dirs")))
    return found


def _said(value) -> str | None:
    if not isinstance(value, str):
        return None
    text = " ".join(value[: 4 * MAX_TEXT].split())
    if text.lower() in _NOTHING:
        return None
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _datasets(value) -> Iterator[str]:
    """kohya: {"10_cat": {"n_repeats": 10, "img_count": 25}}."""
    if not isinstance(value, str) or len(value) > MAX_JSON:
        return
    try:
        folders = json.loads(value)
    except (ValueError, RecursionError):
        return
    if not isinstance(folders, dict):
        return
    for at, (name, facts) in enumerate(folders.items()):
        if at == MAX_DATASETS:
            yield f"and {len(folders) - at} more"
            return
        shown = _said(str(name)) or "unnamed"
        count, repeats = (facts.get(key) if isinstance(facts, dict) else None for key in ("img_count", "n_repeats"))
        pictures = f": {count} pictures" if _is_count(count) else ""
        yield f"{shown}{pictures}{f' x {repeats}' if pictures and _is_count(repeats) else ''}"


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12


def trainer(metadata: Mapping[str, str]) -> str | None:
    """The program that wrote the file, where its header tells."""
    said = " ".join(str(metadata.get(key, ""))[:200] for key in ("modelspec.implementation", "software", "ot_branch"))
    lower = said.lower()
    if "ai-toolkit" in lower or "ostris" in lower:
        return "ai-toolkit"
    if "onetrainer" in lower or any(key.startswith("ot_") for key in metadata):
        return "OneTrainer"
    if "sd-scripts" in lower or "ss_sd_scripts_commit_hash" in metadata or "ss_network_module" in metadata:
        return "sd-scripts (kohya)"
    if "musubi" in lower:
        return "musubi-tuner"
    return None
