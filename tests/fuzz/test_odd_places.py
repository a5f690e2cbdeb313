"""What stands under a LoRA's name and is none, or cannot be read, or is named as no file should be."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import folder_paths
import pytest
import torch
from broken_bytes import pack
from laws import check_refusal

from strata.lora_math.errors import StrataError
from strata.lora_math.reading.files import LoraFileError, read_lora_file
from strata.nodes.comfy.library import CACHE, open_lora
from strata.nodes.comfy.lora_names import lora_names
from strata.nodes.desk.profile import profile

CONTENT = pack({"lora_unet_x.lora_up.weight": torch.ones(4, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 4)})

PLACES = {
    "a folder": (lambda path: path.mkdir(), "it is a folder"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be opened"),
    "a link to nothing": (lambda path: path.symlink_to(path.parent / "nowhere"), "it is gone"),
    "a link to a folder": (lambda path: path.symlink_to(path.parent), "it is a folder"),
    "a pipe": (lambda path: os.mkfifo(path), "not an ordinary file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not an ordinary file"),
    "nothing": (lambda path: None, "it is gone"),
    "a file of the system": (lambda path: path.symlink_to("/proc/self/status"), "it is empty"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_no_file_says_what_it_is(tmp_path, kind):
    path, (make, reason) = tmp_path / "odd.safetensors", PLACES[kind]
    make(path)
    with pytest.raises(LoraFileError, match=reason) as error:
        read_lora_file(str(path))
    check_refusal(str(error.value), "odd.safetensors")


@pytest.mark.parametrize("kind", PLACES)
def test_the_node_and_the_browser_hear_the_same(loras, kind):
    (loras / "odd.safetensors").write_bytes(CONTENT)
    assert lora_names() == ["odd.safetensors"]
    (loras / "odd.safetensors").unlink()
    PLACES[kind][0](loras / "odd.safetensors")
    for use in (CACHE.get, profile):
        with pytest.raises(StrataError) as error:
            use("odd.safetensors")
        check_refusal(str(error.value), "odd.safetensors")


NAMES = {
    "255 bytes": b"n" * 243 + b".safetensors",
    "other scripts": "\u7d75 \u0440 \U0001f600 e\u0301.safetensors".encode(),
    "no text": b"\xff\xfe\x80.safetensors",
    "quotes and tags": b"'\"<b>&amp;%s{0}\n.safetensors",
    "hidden": b".safetensors.safetensors",
    "capitals": b"X.SAFETENSORS",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_of_any_name_is_read_and_one_that_is_damaged_is_named(loras, kind):
    path = os.path.join(os.fsencode(loras), NAMES[kind])
    name = os.fsdecode(NAMES[kind])
    Path(os.fsdecode(path)).write_bytes(CONTENT)
    assert lora_names() == [name]
    answer = profile(name).answer
    assert "rank 2" in answer["about"]
    json.dumps(answer).encode()
    Path(os.fsdecode(path)).write_bytes(CONTENT[:-3])
    with pytest.raises(StrataError) as error:
        CACHE.get(name)
    check_refusal(str(error.value), name)


def test_a_file_that_may_not_be_read_says_so():
    """As another user, where the tests run as one who may read everything."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "secret.safetensors"
    path.write_bytes(CONTENT)
    path.chmod(0)
    folder.chmod(0o711)
    try:
        check_refusal(_as_nobody(lambda: read_lora_file(str(path))), "secret.safetensors")
        assert "Permission denied" in _as_nobody(lambda: read_lora_file(str(path)))
    finally:
        shutil.rmtree(folder)


def _as_nobody(task) -> str:
    """The text of the LoraFileError that a task raises in a child process without privileges."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        text = "nothing was refused"
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            task()
        except LoraFileError as problem:
            text = str(problem)
        finally:
            os.write(writes, text.encode())
            os._exit(0)
    os.close(writes)
    os.waitpid(child, 0)
    with open(reads, encoding="utf-8") as pipe:
        return pipe.read()


def test_links_that_go_round_in_a_circle_do_not_hang_the_list(loras):
    (loras / "real.safetensors").write_bytes(CONTENT)
    (loras / "round").symlink_to(loras)
    names = lora_names()
    assert "real.safetensors" in names
    assert {open_lora(name, str(loras / name)).nbytes for name in names} == {64}


def test_a_folder_that_is_gone_since_it_was_listed_does_not_break_the_list(loras):
    (loras / "sub").mkdir()
    (loras / "sub" / "a.safetensors").write_bytes(CONTENT)
    (loras / "b.safetensors").write_bytes(CONTENT)
    assert len(lora_names()) == 2
    shutil.rmtree(loras / "sub")
    folder_paths.cache_helper.clear()
    assert lora_names() == ["b.safetensors"]
    with pytest.raises(StrataError, match=r"'sub/a\.safetensors' is not in your loras folders"):
        CACHE.get("sub/a.safetensors")
