"""Fixtures for tests that run inside a real ComfyUI, without its server."""

import folder_paths
import pytest
import safetensors.torch

from strata.devtools.model_cache import toy_models
from strata.devtools.toy.studio import Studio
from strata.nodes.comfy import drawing as sweep_drawing
from strata.nodes.library import contents as contents_module
from strata.nodes.library import index as index_module
from strata.nodes.library import search as search_module
from strata.nodes.rows import words as words_module
from strata.nodes.sweep import run as sweep_run


@pytest.fixture
def lora_folder(tmp_path):
    """An empty folder that ComfyUI takes for one of its ``loras`` folders; ``.save(name, tensors)`` writes a file there."""
    paths, extensions = folder_paths.folder_names_and_paths["loras"]
    folder_paths.folder_names_and_paths["loras"] = ([str(tmp_path)], extensions)
    folder_paths.filename_list_cache.pop("loras", None)
    try:
        yield LoraFolder(tmp_path)
    finally:
        folder_paths.folder_names_and_paths["loras"] = (paths, extensions)
        folder_paths.filename_list_cache.pop("loras", None)


class LoraFolder:
    def __init__(self, path):
        self.path = path

    def save(self, name: str, tensors: dict, metadata: dict | None = None) -> str:
        """Writes a safetensors file and returns its name, as the loader's list has it."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, target, metadata)
        folder_paths.filename_list_cache.pop("loras", None)
        return name


@pytest.fixture
def user(tmp_path_factory, monkeypatch):
    """ComfyUI's user folder, empty."""
    folder = tmp_path_factory.mktemp("user")
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(folder))
    return folder


@pytest.fixture
def start_library(user, monkeypatch):
    """Call it for the picker's index and contents as they are after a start of ComfyUI, without the pauses that they leave to others."""
    monkeypatch.setattr(index_module, "PAUSE", 0)
    monkeypatch.setattr(index_module, "LOOK_EVERY", 0)
    monkeypatch.setattr(contents_module, "PAUSE", 0)

    def start():
        index, contents = index_module.LoraIndex(), contents_module.Contents()
        for module in (index_module, search_module, words_module):
            monkeypatch.setattr(module, "INDEX", index)
        monkeypatch.setattr(search_module, "CONTENTS", contents)
        return index, contents

    return start


@pytest.fixture
def output(lora_folder, tmp_path_factory):
    """ComfyUI's output folder, whose ``loras`` its loaders look into, as its main.py has it."""
    before, folder = folder_paths.get_output_directory(), tmp_path_factory.mktemp("output")
    folder_paths.set_output_directory(str(folder))
    paths, extensions = folder_paths.folder_names_and_paths["loras"]
    folder_paths.folder_names_and_paths["loras"] = ([*paths, str(folder / "loras")], extensions)
    yield folder
    folder_paths.set_output_directory(before)


@pytest.fixture(scope="module")
def studio():
    """The shipped toy FLUX with its LoRAs."""
    folder = toy_models(print)
    known = folder_paths.folder_names_and_paths["loras"]
    folder_paths.folder_names_and_paths["loras"] = ([str(folder / "loras")], known[1])
    folder_paths.filename_list_cache.pop("loras", None)
    yield Studio.open(folder)
    folder_paths.folder_names_and_paths["loras"] = known
    folder_paths.filename_list_cache.pop("loras", None)


@pytest.fixture
def out(tmp_path, tmp_path_factory, monkeypatch):
    """ComfyUI's output folder, empty; its user folder is another one."""
    user = str(tmp_path_factory.mktemp("user"))
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: user)
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


@pytest.fixture
def samplings(monkeypatch):
    """How often something was really sampled."""
    calls = []
    own = sweep_drawing.sample
    monkeypatch.setattr(sweep_run, "sample", lambda *given: calls.append(given) or own(*given))
    return calls
