"""What a text of rows means, for the page that shows them. The page writes lines from what it is given here, and reads none itself."""

from __future__ import annotations

from ...lora_math.errors import StrataError
from ...lora_math.experts import Half, half_of
from ...lora_math.rows_text import MAX_ROWS, FolderFiles, Row, lora_row, read_rows, reduced
from ...lora_math.tag_places import find_parts
from ...lora_math.tags import LoraTag, format_tag, read_tag
from ..comfy.library import shown_path
from ..comfy.lora_names import index_of, lora_names
from ..desk.profile import preview
from ..library.halves import in_header
from ..library.index import INDEX
from ..library.search import Nearness, head

# For how many missing files others are suggested.
MAX_NEAR = 20


def described(text: str) -> dict:
    """``{"rows": [...], "prompt": the text that the prompt needs}``."""
    rows, files = read_rows(text), _Files()
    found = []
    for row in rows:
        answer = _plain(row)
        if row.kind == "lora":
            answer |= _tag(row.tags[0])
            name = row.tags[0].name
            answer |= {"file": None, "count": files.folders.count(name)} if row.pick else files.of(name)
        elif row.kind == "prompt":
            answer["lines"] = [lora_row(tag).line for tag in row.tags]
        found.append(answer)
    return {"rows": found, "prompt": reduced(rows)}


def described_prompt(text: str, clip_first: bool) -> dict:
    """``{"pieces": [what stands before, between and behind the tags], "tags": [...]}``: joined in turn they are the text again.

    A tag that cannot be read, or is not closed yet, is "unread" with the reason. Raises StrataError for more than anybody shows.
    """
    places, files = find_parts(text), _Files()
    if len(places) > MAX_ROWS:
        raise StrataError(f"This text has {len(places)} tags; at most {MAX_ROWS} are shown.")
    pieces, tags, at = [], [], 0
    for place, wrong in places:
        pieces.append(text[at : place.start])
        line, at = text[place.start : place.stop], place.stop
        answer: dict = {"line": line, "kind": "lora", "problem": ""}
        try:
            if wrong is not None:
                raise wrong
            tag = read_tag(line, clip_first)
            answer |= _tag(tag) | files.of(tag.name)
        except StrataError as problem:
            answer |= {"kind": "unread", "problem": str(problem)}
        tags.append(answer)
    return {"pieces": [*pieces, text[at:]], "tags": tags}


def _plain(row: Row) -> dict:
    return {
        "line": row.line,
        "kind": row.kind,
        "on": row.on,
        "locked": row.locked,
        "pick": row.pick,
        "title": row.title,
        "note": row.note,
        "problem": row.problem,
    }


def _tag(tag: LoraTag) -> dict:
    """``head`` and ``tail``: what stands before and behind the strengths in the tag; ``front``: the tail before its block weights,
    ``rest``: the tail behind those."""
    bare, front, blocks, whole = (
        format_tag(LoraTag(tag.name, 1.0, 1.0, *fields, region=region)).removesuffix(">")
        for fields, region in (
            ((), None),
            ((), tag.region),
            ((tag.block_weights,), tag.region),
            ((tag.block_weights, tag.more, tag.time), tag.region),
        )
    )
    return {
        "name": tag.name,
        "head": bare.removesuffix(":1"),
        "model": tag.strength_model,
        "model_low": tag.strength_low,
        "clip": tag.strength_clip,
        "tail": whole[len(bare) :],
        "front": front[len(bare) :],
        "mask": None if tag.region is None else str(tag.region),
        "blocks": tag.block_weights,
        "time": tag.time,
        "rest": whole[len(blocks) :],
    }


class _Files:
    """The files of one answer: the list is looked through a bounded number of times, however many rows ask."""

    def __init__(self):
        names = lora_names()
        self.folders = FolderFiles(lambda: names)
        self._index, self._nearness = index_of(names), Nearness(names)
        self._listed, self._missing = frozenset(names), 0

    def of(self, name: str) -> dict:
        """The file that a name stands for, with what is known of it; or why there is none."""
        suggest = self._missing < MAX_NEAR
        try:
            file = self._index.name_of(name, suggest=suggest)
        except StrataError as problem:
            self._missing += 1
            answer = {"file": None, "missing": str(problem)}
            return (
                {**answer, "near": [{"name": n, "tag": head(n)} for n in self._nearness.near(name)]}
                if suggest
                else answer
            )
        path, half = shown_path(file), self._half(file)
        known = None if path is None else INDEX.now(path)
        answer = {"file": file, "family": None, "words": [], "strength": None, "low": None, "high": None}
        answer |= {"other": half.other, "expert": half.expert}
        answer["preview"] = None if path is None else preview(path, file)
        if known is not None:
            answer |= {"family": known.family, "words": list(known.words), "problem": known.problem}
            answer |= {"strength": known.strength, "low": known.low, "high": known.high}
        return answer

    def _half(self, file: str) -> Half:
        try:
            return half_of(file, self._listed, in_header)
        except StrataError:
            # The node says it where it matters.
            return Half()
