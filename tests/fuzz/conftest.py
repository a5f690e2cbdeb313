"""Fixtures of the fuzzer's tests: the models, and an empty folder that ComfyUI takes for its loras."""

import folder_paths
import pytest


@pytest.fixture(scope="session")
def models():
    import fuzz_models

    return fuzz_models.models()


@pytest.fixture
def loras(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors", ".pt"}))
    monkeypatch.chdir(tmp_path)
    folder_paths.filename_list_cache.pop("loras", None)
    yield tmp_path
    folder_paths.filename_list_cache.pop("loras", None)
