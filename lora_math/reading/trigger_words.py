"""Trigger words: what to write into the prompt, from a file's header and from the sidecar files that other tools leave beside it.

Sidecars are read, never written. In order of trust: what the person typed, what the author published, what the trainer recorded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping

# The most bytes, of which Python makes up to twenty times as many; a Civitai-Helper file stays far below.
MAX_SIDECAR = 3_000_000
MAX_WORDS = 40


def trigger_words(path: str, metadata: Mapping[str, str]) -> list[str]:
    """Words for the LoRA at ``path`` in the order in which they should be shown; empty when nothing is known.

    metadata: the safetensors header. Unreadable or malformed sources count as silent: they must never keep a LoRA from loading.
    """
    stem = os.path.splitext(path)[0]
    for source in (_typed, _published):
        words = _clean(source(path, stem))
        if words:
            return words
    for source in (_phrase, _trained_words, _class_tokens, _constant_tags):
        words = _clean(source(metadata))
        if words:
            return words
    return _clean([_text(stem + ".txt")])


def sidecars(path: str) -> tuple[str, ...]:
    """Every file beside the LoRA at ``path`` that may hold words for it, whether it exists or not: while none changes, the words do not."""
    stem = os.path.splitext(path)[0]
    beside = (".json", ".civitai.info", ".metadata.json", ".txt")
    return (*(stem + ending for ending in beside), path + ".rgthree-info.json")


def _typed(path: str, stem: str) -> Iterator[str]:
    """The person's own words: A1111's user metadata, rgthree's and Lora Manager's edited lists."""
    yield from _split(as_dict(read_json(stem + ".json")).get("activation text"))
    for entry in _list(as_dict(read_json(path + ".rgthree-info.json")).get("trainedWords")):
        if isinstance(entry, dict) and entry.get("user"):
            yield from _split(entry.get("word"))


def _published(path: str, stem: str) -> Iterator[str]:
    """Civitai's ``trainedWords`` as Civitai-Helper, Lora Manager and rgthree keep them."""
    for document in (read_json(stem + ".civitai.info"), as_dict(read_json(stem + ".metadata.json")).get("civitai")):
        for words in _list(as_dict(document).get("trainedWords")):
            yield from _split(words)
    for words in _list(as_dict(read_json(stem + ".metadata.json")).get("trainedWords")):
        yield from _split(words)
    for entry in _list(as_dict(read_json(path + ".rgthree-info.json")).get("trainedWords")):
        yield from _split(entry.get("word") if isinstance(entry, dict) else entry)


def _phrase(metadata: Mapping[str, str]) -> Iterator[str]:
    yield from _spoken(metadata.get("modelspec.trigger_phrase"))


def _trained_words(metadata: Mapping[str, str]) -> Iterator[str]:
    """Civitai's list, as some trainers and editors write it into the header: JSON or words between commas."""
    for key in ("trained_words", "trainedWords", "trigger_words", "ss_trigger_words"):
        yield from _spoken(metadata.get(key))


def _spoken(text) -> Iterator[str]:
    """The words of a text in a header: lists and texts of JSON, however deep, or the text itself. Other JSON names none."""
    if not isinstance(text, str):
        return
    try:
        waiting = [json.loads(text)] if len(text) <= MAX_SIDECAR else []
    except (ValueError, RecursionError):
        yield from _split(text)
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += reversed(value)
        elif isinstance(value, str):
            yield from _split(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield from _split(str(value))


def _class_tokens(metadata: Mapping[str, str]) -> Iterator[str]:
    """kohya: class tokens of each subset, or the folder names ``10_ohwx woman`` that carried them."""
    for dataset in _list(read_json_text(metadata.get("ss_datasets"))):
        for subset in _list(as_dict(dataset).get("subsets")):
            yield from _split(as_dict(subset).get("class_tokens"))
    folders = as_dict(read_json_text(metadata.get("ss_dataset_dirs")))
    for folder in folders or as_dict(read_json_text(metadata.get("ss_tag_frequency"))):
        repeats, underscore, named = folder.partition("_")
        if underscore and repeats.isdigit():
            yield from _split(named.replace("_", " "))


def _constant_tags(metadata: Mapping[str, str]) -> Iterator[str]:
    """Tags that every training image of some folder carries."""
    folders = as_dict(read_json_text(metadata.get("ss_dataset_dirs")))
    for folder, tags in as_dict(read_json_text(metadata.get("ss_tag_frequency"))).items():
        images = as_dict(folders.get(folder)).get("img_count")
        for tag, count in as_dict(tags).items():
            if isinstance(images, int) and images > 1 and count == images:
                yield str(tag)


def _clean(words: Iterable[str]) -> list[str]:
    """Without repeats (whatever their case), control characters and the hundredth synonym."""
    seen: dict[str, str] = {}
    for word in words:
        # Halves of characters break tokenizers.
        shown = re.sub(r"[\s\x00-\x1f\x7f\ud800-\udfff]+", " ", word).strip(" ,")
        if shown:
            seen.setdefault(shown.lower(), shown[:500])
        if len(seen) == MAX_WORDS:
            break
    return list(seen.values())


def _split(value) -> Iterator[str]:
    if isinstance(value, str):
        yield from value.split(",")


def _text(path: str) -> str:
    # Longer ones are notes or licences, not trigger words.
    return _read(path, 4096) or ""


def read_json(path: str):
    """The JSON of a sidecar, None where there is none that can be read."""
    try:
        return json.loads(_read(path, MAX_SIDECAR) or "null")
    except (ValueError, RecursionError):
        return None


def _read(path: str, limit: int) -> str | None:
    """The text of a sidecar of at most ``limit`` bytes that really lies where it seems to: a link leads anywhere."""
    folder = os.path.dirname(path)
    try:
        if os.path.dirname(os.path.realpath(path)) != os.path.realpath(folder) or os.path.getsize(path) > limit:
            return None
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return file.read()
    except (OSError, ValueError):
        pass
    return None


def read_json_text(text):
    """JSON inside of a header's or another file's text, None where it is none."""
    try:
        return json.loads(text) if isinstance(text, str) and len(text) <= MAX_SIDECAR else None
    except (ValueError, RecursionError):
        return None


def as_dict(value) -> dict:
    return value if isinstance(value, dict) else {}


def _list(value) -> list:
    return value if isinstance(value, list) else []
