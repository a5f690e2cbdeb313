"""Names resolve on every system and never to the wrong file; files are opened once, and again when they change."""

import json
import os
import threading

import folder_paths
import pytest
import torch
from deadline import deadline
from safetensors.torch import save_file

from strata.lora_math.errors import StrataError
from strata.lora_math.reading import contents
from strata.lora_math.reading.files import LoraFileError
from strata.nodes import apply as applying
from strata.nodes.comfy import library
from strata.nodes.comfy.library import CACHE, LoraCache, file_key, open_lora
from strata.nodes.comfy.lora_names import NameIndex, is_another, locate, resolve
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.stack import StackEntry
from strata.tests.nodes.helpers import lora_makers, small_models

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
    "asked",
    ["sty", "styl.safetensors", "yle.safetensors", "ar/y", "", "..", "../style.safetensors/..", "loras", "loras/"],
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


@pytest.mark.parametrize("moved", [True, False])
def test_a_file_that_keeps_its_size_and_time_is_still_another(lora_folder, moved):
    """A copy that keeps times, moved over it or written into it."""
    cache, name = LoraCache(), lora_folder.save("x.safetensors", LORA)
    path, first = lora_folder.path / name, cache.get(name)
    before = os.stat(path)
    other = lora_folder.path.parent / f"{lora_folder.path.name}_other.safetensors"
    save_file({key: 2 * tensor for key, tensor in LORA.items()}, other)
    if moved:
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(other, path)
    else:
        path.write_bytes(other.read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    again = cache.get(name)
    assert again.identity != first.identity
    assert float(again.contents.entries[0].adapter.up[0, 0]) == 2


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
        ("lora_controlnet", "control LoRA"),
        ("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight", "ControlNet-LLLite"),
        ("transformer.blocks.0.to_q.lora_a", "LoRA as MLX writes it"),
        ("blocks.0.to_q.smooth_factor", "Nunchaku"),
        ("diffusion_model.blocks.0.to_q.lora_A.weight_scale", "scales of its own"),
        ("lora_unet_blocks_0_to_q.lora_up.scale_weight", "scales of its own"),
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


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("./sdxl/Char/x.safetensors", "sdxl/Char/x.safetensors"),
        ("sdxl//Char/x.safetensors", "sdxl/Char/x.safetensors"),
        ("loras/a/dup.safetensors", "a/dup.safetensors"),
        ("models\\loras\\a\\dup.safetensors", "a/dup.safetensors"),
        ("D:\\ComfyUI\\models\\loras\\b\\dup.safetensors", "b/dup.safetensors"),
        ("D:/ComfyUI/models/Loras/B/DUP", "b/dup.safetensors"),
        ("/home/me/loras/a/dup", "a/dup.safetensors"),
        (".\\a\\\\dup", "a/dup.safetensors"),
    ],
)
def test_a_path_means_that_very_file(asked, found):
    """Two files are called ``dup``: which one is meant stands in the path."""
    assert resolve(asked, NAMES) == found


def test_a_folder_called_loras_may_be_inside():
    names = ["loras/x.safetensors", "x.safetensors", "y/loras/z.safetensors", "z.safetensors"]
    assert resolve("loras\\x.safetensors", names) == "loras/x.safetensors"
    assert resolve("y\\loras\\z", names) == "y/loras/z.safetensors"
    assert resolve("E:\\loras\\loras\\x", names) == "loras/x.safetensors"


@pytest.fixture
def two_folders(lora_folder, tmp_path, monkeypatch):
    """(the first loras folder, the second), both with an ``r.safetensors``."""
    second = tmp_path.parent / f"{tmp_path.name}_more"
    second.mkdir()
    lora_folder.save("r.safetensors", LORA)
    save_file({key: 3 * tensor for key, tensor in LORA.items()}, second / "r.safetensors")
    save_file(LORA, second / "only.safetensors")
    paths, extensions = folder_paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([*paths, str(second)], extensions))
    folder_paths.filename_list_cache.pop("loras", None)
    return lora_folder.path, second


def test_an_absolute_path_into_the_second_folder_is_that_file(two_folders):
    first, second = two_folders
    cache = LoraCache()
    up = lambda name: float(cache.get(name).contents.entries[0].adapter.up[0, 0])  # noqa: E731
    assert up("r.safetensors") == 1
    assert up(str(first / "r.safetensors")) == 1
    assert up(str(second / "r.safetensors")) == 3
    assert up(f"{second}/./r.safetensors") == 3
    assert up("r.safetensors") == 1, "another file's contents under this name"
    assert locate(str(first / "r.safetensors")).name == "r.safetensors"
    assert locate(str(second / "only.safetensors")).name == "only.safetensors"
    hidden = locate(str(second / "r.safetensors"))
    assert hidden.name == hidden.path == str(second / "r.safetensors"), "no name of the list means it"
    # As tags write it, and through a link.
    link = second.parent / f"{second.name}_link"
    link.symlink_to(second)
    for asked in (second / "r", link / "r.safetensors", link / "r"):
        assert up(str(asked)) == 3 and not is_another(str(asked), locate(str(asked)).name), asked


def test_a_file_outside_of_the_folders_is_another_one_than_its_namesake_inside(two_folders):
    _, second = two_folders
    outside = second.parent / "elsewhere"
    outside.mkdir(exist_ok=True)
    save_file(LORA, outside / "only.safetensors")
    for asked in (outside / "only.safetensors", outside / "only"):
        used = locate(str(asked)).name
        assert used == "only.safetensors" and is_another(str(asked), used)
    # Of another machine: what ends like it is what was meant.
    assert not is_another("/models/loras/only.safetensors", "only.safetensors")


def test_an_absolute_path_to_anything_else_is_no_lora(two_folders):
    first, second = two_folders
    (first / "notes.txt").write_text("x")
    (second.parent / "secret.safetensors").write_bytes(b"x")
    for path in (first / "notes.txt", second.parent / "secret.safetensors", first / ".." / "secret.safetensors", first):
        with pytest.raises(StrataError, match="not in your loras folders"):
            locate(str(path))


def test_what_is_nearly_so_is_named():
    names = [*NAMES, "people/Portrait Light v2.safetensors", "sdxl/portrait_light_v2.safetensors"]
    with pytest.raises(StrataError, match=r"Did you mean old_style\.safetensors"):
        resolve("old_stile", names)
    with pytest.raises(StrataError, match=r"Did you mean .*portrait_light_v2\.safetensors"):
        resolve("other/portrait_ligth_v2.safetensors", names)
    with pytest.raises(StrataError) as error:
        resolve("nothing like it", names)
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["x" * 100_000, "loras/" * 50_000, "../" * 50_000, "\\" * 100_000, "a.b" * 50_000, "\ud800", "\0", " "]
)
def test_a_name_of_any_length_gets_a_short_answer(name):
    names = [f"folder {n % 100}/some style {n}.safetensors" for n in range(20_000)]
    with deadline(), pytest.raises(StrataError) as error:
        resolve(name, names)
    assert len(str(error.value)) < 1000


def test_the_index_follows_the_list():
    names = [f"{n}.safetensors" for n in range(50)]
    assert resolve("7", names) == "7.safetensors"
    names.append("a/new.safetensors")
    assert resolve("new", names) == "a/new.safetensors"
    names.append("b/new.safetensors")
    with pytest.raises(StrataError, match="any of 2 files"):
        resolve("new", names)
    del names[7]
    with pytest.raises(StrataError, match="not in your"):
        resolve("7", names)


def test_names_are_spelled_once_for_a_list(monkeypatch):
    """Twenty thousand names are looked through the first time; then every name is found in a table."""
    made = []
    init = NameIndex.__init__
    monkeypatch.setattr(NameIndex, "__init__", lambda self, names: (made.append(len(names)), init(self, names))[1])
    names = [f"folder {n % 100}/style {n}.safetensors" for n in range(2000)]
    for n in range(2000):
        assert resolve(f"C:\\elsewhere\\STYLE {n}", list(names)) == names[n]
    assert made == [2000]


def test_the_cache_keeps_a_file_under_its_listed_name(lora_folder):
    """Whatever it was asked for by: a later reader is never told of somebody else's spelling."""
    cache = LoraCache()
    lora_folder.save("hands/detail.safetensors", LORA)
    names = [cache.get(asked).name for asked in ("faces/detail", "detail", "HANDS\\Detail", "hands/detail.safetensors")]
    assert set(names) == {"hands/detail.safetensors"}
    assert len(cache._loras) == 1


def test_an_adapter_config_that_comes_or_changes_later_is_noticed(lora_folder):
    cache = LoraCache()
    tensors = {
        "base_model.model.x.lora_A.weight": torch.ones(2, 4),
        "base_model.model.x.lora_B.weight": torch.ones(4, 2),
    }
    name = lora_folder.save("mine/adapter_model.safetensors", tensors)
    config = lora_folder.path / "mine" / "adapter_config.json"
    scale = lambda: cache.get(name).contents.entries[0].adapter.scale  # noqa: E731
    before, seen = StrataLoraLoader.fingerprint_inputs(name), scale()
    config.write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 8}')
    assert (seen, scale()) == (1, 4)
    assert StrataLoraLoader.fingerprint_inputs(name) != before
    config.write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 16}')
    assert scale() == 8
    config.unlink()
    assert scale() == 1
    assert StrataLoraLoader.fingerprint_inputs(name) == before


def test_trigger_words_are_read_again_only_when_a_sidecar_changes(lora_folder, monkeypatch):
    name = lora_folder.save("x.safetensors", LORA)
    lora = LoraCache().get(name)
    assert lora.trigger_words == []
    (lora_folder.path / "x.json").write_text('{"activation text": "ohwx"}')
    assert lora.trigger_words == ["ohwx"]
    opened = []
    monkeypatch.setattr("builtins.open", lambda *arguments, **_: opened.append(arguments))
    assert lora.trigger_words == ["ohwx"]
    monkeypatch.undo()
    assert not opened
    (lora_folder.path / "x.json").unlink()
    (lora_folder.path / "x.txt").write_text("sks")
    assert lora.trigger_words == ["sks"]


def test_a_checkpoint_is_refused_from_its_header(lora_folder, monkeypatch):
    """Gigabytes that are no LoRA are never read: eight, of which this file really holds the first few hundred bytes."""
    size = 8 << 30
    header = {f"model.diffusion_model.input_blocks.{n}.weight": size // 8 for n in range(8)}
    entries, at = {}, 0
    for key, nbytes in header.items():
        entries[key] = {"dtype": "F16", "shape": [nbytes // 2], "data_offsets": [at, at + nbytes]}
        at += nbytes
    entries["vocoder.act.alpha"] = {"dtype": "F16", "shape": [0], "data_offsets": [at, at]}
    packed = json.dumps(entries).encode()
    with open(lora_folder.path / "big.safetensors", "wb") as file:
        file.write(len(packed).to_bytes(8, "little") + packed)
        file.truncate(8 + len(packed) + size)
    folder_paths.filename_list_cache.pop("loras", None)
    monkeypatch.setattr(contents, "read_tensors", lambda *_: pytest.fail("the tensors were read"))
    with pytest.raises(LoraFileError, match="whole checkpoint"):
        LoraCache().get("big.safetensors")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["model.diffusion_model.input_blocks", "down_blocks"])
def test_a_pickled_checkpoint_is_refused_from_its_names(lora_folder, monkeypatch, legacy, prefix):
    weights = {"state_dict": {f"{prefix}.{n}.weight": torch.zeros(4, 4) for n in range(9)}, "epoch": 3}
    torch.save(weights, lora_folder.path / "big.ckpt", _use_new_zipfile_serialization=not legacy)
    folder_paths.filename_list_cache.pop("loras", None)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the tensors were read"))
    with pytest.raises(LoraFileError, match="it holds no LoRA"):
        LoraCache().get("big.ckpt")


def test_a_name_longer_than_any_is_refused(lora_folder):
    name = lora_folder.save("long.safetensors", {**LORA, f"{'norm' * 8000}-.lora_up.weight": torch.ones(1)})
    with pytest.raises(LoraFileError, match="a tensor with 32016 letters"):
        LoraCache().get(name)


def test_what_nothing_can_use_is_refused_by_its_reason(lora_folder):
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, "unet.alpha_pattern": {"(a+)+b": 2}})}
    tensors = {"unet.to_q.lora_A.weight": torch.ones(2, 4), "unet.to_q.lora_B.weight": torch.ones(4, 2)}
    name = lora_folder.save("odd.safetensors", tensors, metadata)
    with pytest.raises(LoraFileError, match=r"its expression '\(a\+\)\+b' repeats a group"):
        LoraCache().get(name)


def test_keys_of_missing_files_do_not_fail():
    assert file_key("/nowhere/x.safetensors")[1:] == (0, 0, 0, None)


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


def test_files_are_read_while_there_is_other_work(lora_folder, monkeypatch):
    """The first while the names of the model's weights are learned, each other one while the one before it is applied."""
    model = small_models.sd15()
    names = [lora_folder.save(f"{at}.safetensors", lora_makers.full_lora(model, seed=at, rank=1)) for at in range(3)]
    learned, begun = threading.Event(), [threading.Event() for _ in names]
    learn, read, on_model = applying.model_targets, library.open_lora, applying.apply_lora

    def learns(model):
        learned.set()
        return learn(model)

    def reads(name, path):
        begun[names.index(name)].set()
        assert learned.wait(60), "the model's names come after the file"
        return read(name, path)

    def applies(models, clips, lora, *rest):
        following = names.index(lora.name) + 1
        assert following == len(names) or begun[following].wait(60), "the next file waits for this one"
        return on_model(models, clips, lora, *rest)

    monkeypatch.setattr(applying, "model_targets", learns)
    monkeypatch.setattr(library, "open_lora", reads)
    monkeypatch.setattr(applying, "apply_lora", applies)
    CACHE.clear()
    stack = [StackEntry(name, 0.5, 0.0) for name in names]
    found = applying.apply_stack(model, None, stack, "error")
    assert [part.used for part in found.parts] == [True] * 3 and all(event.is_set() for event in begun)
    # Whatever is wrong with a file is said of that file, in the order of the rows.
    (lora_folder.path / names[1]).write_bytes(b"{}")
    CACHE.clear()
    with pytest.raises(StrataError, match=names[1]):
        applying.apply_stack(model, None, stack, "error")
    parts = applying.apply_stack(model, None, stack, "warn").parts
    assert [part.used for part in parts] == [True, False, True] and names[1] in parts[1].report
