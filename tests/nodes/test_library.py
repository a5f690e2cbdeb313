"""Names resolve on every system and never to the wrong file; files are opened once, and again when they change."""

import os
import threading

import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.lora_math.reading.files import LoraFileError
from strata.nodes.comfy.library import LoraCache, file_key, open_lora
from strata.nodes.comfy.lora_names import resolve
from strata.nodes.loader import StrataLoraLoader

NAMES = [
    "style.safetensors",
    "sdxl/Char/x.safetensors",
    "a/dup.safetensors",
    "b/dup.safetensors",
    "old_style.safetensors",
]
LORA = {"lora_unet_x.lora_up.weight": torch.ones(4, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 4)}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("style.safetensors", "style.safetensors"),
        ("sdxl\\Char\\x.safetensors", "sdxl/Char/x.safetensors"),
        ("SDXL\\char\\X.safetensors", "sdxl/Char/x.safetensors"),
        ("renamed/x.safetensors", "sdxl/Char/x.safetensors"),
        ("C:\\loras\\x.safetensors", "sdxl/Char/x.safetensors"),
        ("a\\dup.safetensors", "a/dup.safetensors"),
        ("style", "style.safetensors"),
        ("SDXL/Char/x", "sdxl/Char/x.safetensors"),
        ("x", "sdxl/Char/x.safetensors"),
    ],
)
def test_a_name_from_another_system_is_found(asked, found):
    assert resolve(asked, NAMES) == found


def test_names_with_backslashes_are_found_from_linux():
    assert resolve("sdxl/x.safetensors", ["sdxl\\x.safetensors"]) == "sdxl\\x.safetensors"


def test_two_candidates_are_an_error_that_lists_them():
    with pytest.raises(StrataError, match=r"a/dup\.safetensors, b/dup\.safetensors"):
        resolve("c/dup.safetensors", NAMES)


@pytest.mark.parametrize(
    "asked", ["sty", "styl.safetensors", "yle.safetensors", "ar/y", "", "..", "../style.safetensors/.."]
)
def test_never_by_a_part_of_a_name(asked):
    with pytest.raises(StrataError, match="not in your loras folders"):
        resolve(asked, NAMES)


def test_the_node_accepts_foreign_names_and_names_missing_ones(lora_folder):
    lora_folder.save("sub/x.safetensors", LORA)
    assert StrataLoraLoader.validate_inputs("sub\\x.safetensors") is True
    assert "gone.safetensors" in StrataLoraLoader.validate_inputs("gone.safetensors")
    assert StrataLoraLoader.validate_inputs(None) is True  # linked: not known yet


def test_a_file_is_opened_once_and_again_when_it_is_replaced(lora_folder):
    cache = LoraCache()
    name = lora_folder.save("x.safetensors", LORA)
    first, print_before = cache.get(name), StrataLoraLoader.fingerprint_inputs(name)
    assert cache.get(name) is first
    lora_folder.save("x.safetensors", {key: 2 * tensor for key, tensor in LORA.items()})
    os.utime(lora_folder.path / name, ns=(1, 1))
    second = cache.get(name)
    assert second is not first
    assert float(second.contents.entries[0].adapter.up[0, 0]) == 2
    assert StrataLoraLoader.fingerprint_inputs(name) != print_before
    assert cache.nbytes == second.nbytes, "the replaced file is still held"


def test_the_cache_is_bounded_and_keeps_what_was_used_last(lora_folder):
    names = [lora_folder.save(f"{i}.safetensors", LORA) for i in range(4)]
    size = LoraCache().get(names[0]).nbytes
    cache = LoraCache(budget=2 * size)
    first = cache.get(names[0])
    cache.get(names[1])
    cache.get(names[0])
    cache.get(names[2])
    assert cache.nbytes == 2 * size
    assert cache.get(names[0]) is first
    assert LoraCache(budget=1).get(names[0]).nbytes == size, "a file larger than the budget is still usable"


def test_threads_share_one_reading(lora_folder):
    cache, found, name = LoraCache(), [], lora_folder.save("x.safetensors", LORA)
    threads = [threading.Thread(target=lambda: found.append(cache.get(name))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len({id(lora) for lora in found}) == 1


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "whole checkpoint"),
        ("control_model.x.weight", "ControlNet"),
        ("emb_params", "textual inversion"),
        ("something.weight", "no LoRA that this pack knows"),
    ],
)
def test_a_file_that_is_no_lora_says_what_it_is(lora_folder, key, what):
    name = lora_folder.save("wrong.safetensors", {key: torch.ones(2)})
    with pytest.raises(LoraFileError, match=what):
        open_lora(name, str(lora_folder.path / name))


def test_an_alpha_that_nothing_reads_may_be_anything(lora_folder):
    """LyCORIS writes the full dimension, 10 000 000 000, into fp16 where both sides of a LoKr are whole."""
    tensors = {"lora_unet_x.lokr_w1": torch.ones(2, 2), "lora_unet_x.lokr_w2": torch.ones(2, 2)}
    infinite = {**tensors, "lora_unet_x.alpha": torch.tensor(float("inf"), dtype=torch.float16)}
    name = lora_folder.save("lokr.safetensors", infinite)
    lora = open_lora(name, str(lora_folder.path / name))
    assert not lora.broken
    assert lora.contents.entries[0].adapter.scale == 1


def test_a_file_that_only_looks_like_a_control_lora_is_read(lora_folder):
    """ComfyUI's own conversion looks for a tensor that is not there."""
    tensors = {"img_in.lora_A.weight": torch.ones(2, 4), "single_blocks.0.norm.key_norm.scale": torch.ones(4), **LORA}
    name = lora_folder.save("looks.safetensors", tensors)
    assert len(open_lora(name, str(lora_folder.path / name)).contents.entries) == 1


def test_keys_of_missing_files_do_not_fail():
    assert file_key("/nowhere/x.safetensors")[1:] == (0, 0)


def test_the_scale_in_adapter_config_counts_for_the_file_it_was_saved_with(lora_folder):
    tensors = {
        "base_model.model.x.lora_A.weight": torch.ones(2, 4),
        "base_model.model.x.lora_B.weight": torch.ones(4, 2),
    }
    name = lora_folder.save("mine/adapter_model.safetensors", tensors)
    other = lora_folder.save("mine/other.safetensors", tensors)
    (lora_folder.path / "mine" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 8}')
    scale = lambda n: open_lora(n, str(lora_folder.path / n)).contents.entries[0].adapter.scale  # noqa: E731
    assert scale(name) == 4
    assert scale(other) == 1, "the configuration of another file was used"
    (lora_folder.path / name).unlink()
    assert scale(other) == 4, "alone in its folder, it is the renamed file"
    for broken in ("", "[]", "{" * 100_000):
        (lora_folder.path / "mine" / "adapter_config.json").write_text(broken)
        assert scale(other) == 1
