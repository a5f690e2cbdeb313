"""Pictures and tables in ComfyUI's output folder, numbered as its savers number them, and found again by what they say of themselves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import reprlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import folder_paths
import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ...lora_math.errors import StrataError
from .internals import find

# The chunk of a PNG that holds a cell's own description.
CHUNK = "strata_sweep"
# How many files of one prefix are looked at for cells that are there already: the newest.
MAX_FOUND = 4000
MAX_CHUNK = 200_000
TRIES = 100
LONGEST_KIND = "_differences"
# Bytes of a batch of pictures that stay in memory alone.
IN_MEMORY = 256 << 20


@dataclass(frozen=True)
class Saved:
    """A file as ComfyUI's /view finds it; path: on the disk; pixels: the digest of what was drawn, empty where that is not told."""

    filename: str
    subfolder: str
    path: str
    pixels: str = ""

    @property
    def shown(self) -> dict[str, str]:
        return {"filename": self.filename, "subfolder": self.subfolder, "type": "output"}

    @property
    def name(self) -> str:
        """Relative to the output folder, with slashes."""
        return "/".join(filter(None, (self.subfolder.replace("\\", "/"), self.filename)))


class Folder:
    """Where a sweep saves. prefix: as in Save Image, such as ``sweep/fox``. Raises StrataError where it leads out of the output folder or
    that cannot be written to."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        # How many pictures ``found`` has not looked at.
        self.unseen = 0
        folder, name, *_ = self._place("")
        # Now, and not when the first cell has been sampled.
        probe = os.path.join(folder, f".{name}{LONGEST_KIND}_{os.getpid()}.tmp")
        try:
            with open(probe, "wb"):
                pass
            os.remove(probe)
        except (OSError, ValueError) as problem:
            said = getattr(problem, "strerror", None) or problem
            raise StrataError(
                f"filename_prefix {reprlib.repr(prefix)}: nothing can be saved under this name ({said}). Choose another one."
            ) from None

    def _place(self, kind: str) -> tuple[str, str, int, str]:
        try:
            folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
                self.prefix + kind, folder_paths.get_output_directory()
            )
        except OSError as problem:
            raise StrataError(
                f"Nothing was saved: the output folder cannot be written to ({problem.strerror})."
            ) from problem
        # ComfyUI's own guard raises nothing more exact.
        except Exception as problem:
            raise StrataError(
                f"filename_prefix {reprlib.repr(self.prefix)} leads out of the output folder. Choose a name inside it."
            ) from problem
        return folder, name, counter, subfolder

    def found(self) -> dict[str, list[Saved]]:
        """Cells that are here already, whole: hash -> the pictures of its batch."""
        folder, name, _, subfolder = self._place("")
        entries = [entry for entry in os.scandir(folder) if _is_ours(entry, name)]
        entries.sort(key=lambda entry: _numbered(entry.name, name), reverse=True)
        self.unseen = max(0, len(entries) - MAX_FOUND)
        parts: dict[str, dict[int, tuple[int, Saved]]] = {}
        for entry in entries[:MAX_FOUND]:
            told = described(entry.path)
            part = part_of(told)
            if part is not None:
                cell, number, count = part
                pixels = told.get("pixels")
                saved = Saved(entry.name, subfolder, entry.path, pixels if isinstance(pixels, str) else "")
                parts.setdefault(cell, {}).setdefault(number, (count, saved))
        return {
            cell: [saved for _, (_, saved) in sorted(known.items())]
            for cell, known in parts.items()
            if {count for count, _ in known.values()} == {len(known)}
        }

    def save_cell(
        self, pictures: NDArray[numpy.uint8], texts: Mapping[str, str], cell: str, told: Mapping[str, object]
    ) -> list[Saved]:
        """Each picture of [count, height, width, 3] at once as a PNG. texts: chunks for other programs, left out where ComfyUI runs
        without metadata; told: about the cell."""
        saved = []
        for number, picture in enumerate(pictures):
            own = {"cell": cell, "part": [number, len(pictures)], "pixels": pixels_digest(picture), **told}
            saved.append(self.save_picture(Image.fromarray(picture), "", {**texts, CHUNK: json.dumps(own)}))
        return saved

    def save_picture(self, picture: Image.Image, kind: str, chunks: Mapping[str, str] | None = None) -> Saved:
        """kind: what is put behind the prefix, such as ``_grid``; chunks: but for a sweep's own left out where ComfyUI runs without
        metadata."""
        info, wanted = PngInfo(), _wants_metadata()
        for name, text in (chunks or {}).items():
            if name != CHUNK and not wanted:
                continue
            info.add_itxt(name, text) if not text.isascii() else info.add_text(name, text)
        return self._write(kind, {"png": lambda file: picture.save(file, "PNG", pnginfo=info, compress_level=4)})

    def save_texts(self, texts: Mapping[str, str], kind: str) -> None:
        """texts: ending -> text; all under one number."""
        self._write(
            kind, {ending: lambda file, text=text: file.write(text.encode("utf-8")) for ending, text in texts.items()}
        )

    def _write(self, kind: str, writers: Mapping[str, Callable]) -> Saved:
        """Under the next number, whole or not at all: a killed server leaves no half of a file under its name. The last one's place."""
        folder, name, counter, subfolder = self._place(kind)
        drafts: dict[str, str] = {}
        try:
            for ending, write in writers.items():
                draft = os.path.join(folder, f".{name}_{os.getpid()}_{os.urandom(4).hex()}.tmp")
                with open(draft, "xb") as file:
                    drafts[ending] = draft
                    write(file)
            for number in range(counter, counter + TRIES):
                stem = os.path.join(folder, f"{name}_{number:05}_")
                if _put({draft: f"{stem}.{ending}" for ending, draft in drafts.items()}):
                    path = f"{stem}.{list(drafts)[-1]}"
                    return Saved(os.path.basename(path), subfolder, path)
        except OSError as problem:
            raise StrataError(f"{name} was not saved: {problem.strerror or problem}.") from problem
        finally:
            for draft in drafts.values():
                with contextlib.suppress(OSError):
                    os.remove(draft)
        raise StrataError(f"{TRIES} files of the name {name} are there already. Choose another filename_prefix.")


def _put(places: Mapping[str, str]) -> bool:
    """Gives each draft its name, all or none; False where one of the names is taken, also by another program that saves here at the same
    time."""
    done: list[str] = []
    try:
        for draft, path in places.items():
            _claim(draft, path)
            done.append(path)
    except BaseException as problem:
        for other in done:
            with contextlib.suppress(OSError):
                os.remove(other)
        if isinstance(problem, FileExistsError):
            return False
        raise
    return True


def _claim(draft: str, path: str) -> None:
    """Raises FileExistsError where the name is taken. A link fails then, in one step; where a disk has no links the name is taken first."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(path)
            raise


def _numbered(filename: str, name: str) -> tuple[int, str]:
    """By their numbers: 100000 comes behind 99999."""
    number = filename[len(name) + 1 :].split("_", 1)[0].split(".", 1)[0]
    return (int(number) if number.isascii() and number.isdigit() and len(number) < 20 else 0, filename)


def pixels_digest(picture: NDArray[numpy.uint8]) -> str:
    """Of [height, width, 3], whatever file it lies in."""
    found = hashlib.sha256(repr(picture.shape).encode())
    found.update(numpy.ascontiguousarray(picture).tobytes())
    return found.hexdigest()


def _is_ours(entry: os.DirEntry, name: str) -> bool:
    start = f"{name}_"
    return (
        entry.name.startswith(start) and entry.name.lower().endswith(".png") and entry.name[len(start) :][:1].isdigit()
    )


def described(path: str) -> dict:
    """What a picture of a sweep says of itself; empty for any other file."""
    try:
        with Image.open(path) as picture:
            text = picture.info.get(CHUNK) if picture.format == "PNG" else None
        found = json.loads(text) if isinstance(text, str) and len(text) <= MAX_CHUNK else None
    # Pillow raises whatever a broken file makes it stumble over.
    except Exception:
        return {}
    return found if isinstance(found, dict) else {}


def part_of(told: Mapping) -> tuple[str, int, int] | None:
    """(cell, number, count) of a description that is one."""
    cell, part = told.get("cell"), told.get("part")
    if not isinstance(cell, str) or not isinstance(part, list) or len(part) != 2:
        return None
    number, count = part
    if type(number) is not int or type(count) is not int or not 0 <= number < count:
        return None
    return cell, number, count


def loaded(saved: Sequence[Saved]) -> NDArray[numpy.uint8]:
    """[count, height, width, 3]. Raises StrataError for a picture that is gone or broken."""
    found = []
    for each in saved:
        try:
            with Image.open(each.path) as picture:
                found.append(numpy.asarray(picture.convert("RGB")))
        except Exception as problem:
            raise StrataError(f"{each.name} was drawn and cannot be read any more ({problem}).") from problem
    if len({picture.shape for picture in found}) > 1:
        raise StrataError(f"The pictures of one cell, such as {saved[0].name}, are not of one size any more.")
    return numpy.stack(found)


def as_drawn(saved: Sequence[Saved], pictures: NDArray[numpy.uint8]) -> bool:
    """Whether the pictures are those that were drawn: nobody has painted over them, or made them smaller, and kept what they say."""
    return all(pixels_digest(picture) == each.pixels for each, picture in zip(saved, pictures, strict=True))


def as_images(cells: Sequence[Sequence[Saved]]) -> Tensor:
    """[count, height, width, 3] from 0 to 1 of all pictures, as an IMAGE.

    Many lie in a file of ComfyUI's temporary folder that ends with the tensor: the system keeps in memory of it what is used.
    """
    first = loaded(cells[0])
    shape = (sum(map(len, cells)), *first.shape[1:])
    found, at = _room_for(shape), 0
    for files in cells:
        for picture in loaded(files):
            numpy.divide(picture, 255, out=found[at], casting="unsafe")
            at += 1
    return torch.from_numpy(numpy.asarray(found))


def _room_for(shape: tuple[int, ...]) -> NDArray[numpy.float32]:
    size = 4 * prod(shape)
    if size > IN_MEMORY:
        folder = folder_paths.get_temp_directory()
        try:
            os.makedirs(folder, exist_ok=True)
            # A mapped file that the disk has no room for would end the whole program.
            if shutil.disk_usage(folder).free > 2 * size:
                with tempfile.TemporaryFile(dir=folder) as file:
                    return numpy.memmap(file, numpy.float32, "w+", shape=shape)
        except OSError:
            pass
    return numpy.empty(shape, numpy.float32)


def _wants_metadata() -> bool:
    args = find("comfy.cli_args", "args", "Whether pictures may hold their workflow is not known: they do.")
    return not getattr(args, "disable_metadata", False)


def makes_lists(class_type: str) -> bool:
    """Whether a node gives lists, so that ComfyUI runs what is behind it once for each item."""
    known = find(
        "nodes",
        "NODE_CLASS_MAPPINGS",
        "Nodes that give lists are not known: a sweep behind one takes its old pictures.",
    )
    return any(getattr((known or {}).get(class_type), "OUTPUT_IS_LIST", None) or ())


def file_stamp(text: str) -> list[tuple] | None:
    """Size and time of change of the files that a node's setting names, in every folder of models and among the inputs, with or without
    their ending; None for other texts."""
    if not text or len(text) > 400 or "\n" in text or "\0" in text:
        return None
    if os.path.isabs(text):
        paths = [text]
    else:
        names = (text, f"{text}.safetensors")
        kinds = [kind for kind in list(folder_paths.folder_names_and_paths) if kind != "custom_nodes"]
        # Without listing: a folder may hold thousands of files.
        paths = [path for kind in kinds for name in names if (path := _full_path(kind, name)) is not None]
        # "picture.png [output]" is one of another folder.
        paths.append(_input_path(text))
    found = [(stat.st_size, stat.st_mtime_ns) for path in dict.fromkeys(filter(None, paths)) if (stat := _stat(path))]
    return found or None


def _input_path(text: str) -> str | None:
    try:
        return folder_paths.get_annotated_filepath(text)
    except Exception:
        return None


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path) if os.path.isfile(path) else None
    except (OSError, ValueError):
        return None


def _full_path(kind: str, name: str) -> str | None:
    try:
        return folder_paths.get_full_path(kind, name)
    except (OSError, ValueError, TypeError):
        return None
