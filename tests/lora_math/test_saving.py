"""LoRAs baked into files: what is read back, what the hashes are of, and that nothing half-written is ever left."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from io import BytesIO

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.lora_math import families
from strata.lora_math.adapters import DoRA, LoHa, LoKr, LoRA
from strata.lora_math.adapters.stored import STYLES
from strata.lora_math.algebra.budget import Budget
from strata.lora_math.baking import Layer, Recipe, bake, layers_by_name
from strata.lora_math.choices import METHODS
from strata.lora_math.command_line import main
from strata.lora_math.errors import StrataError
from strata.lora_math.reading import state_dict
from strata.lora_math.reading.files import read_lora_file
from strata.lora_math.reading.state_dict import Entry
from strata.lora_math.writing import file as writing
from strata.lora_math.writing.file import Exists, save
from strata.lora_math.writing.header import Parent, header

SHAPES = {"lora_unet_a": (16, 12), "lora_unet_b": (8, 6, 3, 3), "lora_te_text_model_encoder_layers_0_mlp_fc1": (24, 8)}


def tensors(seed: int = 0, rank: int = 4, alpha: float = 2.0, dtype=torch.float32) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    found = {}
    for module, (out, *inputs) in SHAPES.items():
        found[f"{module}.lora_up.weight"] = torch.randn(out, rank, *[1] * (len(inputs) - 1), generator=g).to(dtype)
        found[f"{module}.lora_down.weight"] = torch.randn(rank, *inputs, generator=g).to(dtype)
        found[f"{module}.alpha"] = torch.tensor(alpha)
    return found


def deltas(found) -> dict[str, torch.Tensor]:
    """By layer, whatever the spelling."""
    return {
        entry.module: entry.adapter.delta(torch.zeros(SHAPES[entry.module], dtype=torch.float64))
        for entry in state_dict.parse(found).entries
    }


def by_name(*files):
    return layers_by_name([state_dict.parse(file).entries for file in files])


@pytest.mark.parametrize("style", STYLES)
@given(a=st.floats(-2, 2), b=st.floats(-2, 2).filter(bool), seed=st.integers(0, 999))
@settings(max_examples=15)
def test_what_is_baked_is_the_sum_of_the_stack(style, a, b, seed):
    one, two = tensors(seed), tensors(seed + 1, rank=3, alpha=5.0)
    layers = by_name(one, two)
    baked = bake(layers, [a, b], Recipe(dtype=torch.float64, style=style))
    found, first, second = (deltas(t) for t in (baked.tensors, one, two))
    for module, delta in found.items():
        expected = a * first[module] + b * second[module]
        assert torch.allclose(delta, expected, rtol=0, atol=1e-10 * (1 + float(expected.abs().max())))
    assert len(found) == 3 and baked.quality.error < 1e-12 and math.isclose(baked.quality.gain, 1)


def test_differently_spelled_files_meet_in_one_layer():
    kohya = {
        "lora_unet_mid_block_attn_to_q.lora_up.weight": torch.ones(4, 1),
        "lora_unet_mid_block_attn_to_q.lora_down.weight": torch.ones(1, 3),
    }
    peft = {
        "unet.mid_block.attn.to_q.lora_B.weight": torch.ones(4, 1),
        "unet.mid_block.attn.to_q.lora_A.weight": torch.ones(1, 3),
    }
    layers = by_name(kohya, peft)
    assert [layer.module for layer in layers] == ["lora_unet_mid_block_attn_to_q"]
    baked = bake(layers, [1.0, 2.0], Recipe(dtype=torch.float32))
    up, down = (baked.tensors[f"lora_unet_mid_block_attn_to_q.lora_{n}.weight"] for n in ("up", "down"))
    assert torch.allclose(up @ down, torch.full((4, 3), 3.0)) and up.shape == (4, 1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_file(method, tmp_path):
    layers = by_name(*map(tensors, (0, 1)))
    baked = bake(layers, [1.0, -0.5], Recipe(method, Budget("rank", 6)))
    save(str(tmp_path / "x.safetensors"), baked.tensors, {})
    again = state_dict.parse(read_lora_file(str(tmp_path / "x.safetensors")).tensors)
    assert len(again.entries) == 3 and not again.leftovers
    assert all(entry.adapter.rank <= 6 for entry in again.entries)


def test_every_algorithm_becomes_a_lora_or_says_what_it_lacks():
    g = torch.Generator().manual_seed(3)
    r = lambda *s: torch.randn(s, generator=g, dtype=torch.float64) * 0.3  # noqa: E731
    weight = r(16, 12)
    inner = LoRA(r(16, 2), r(2, 12))
    for adapter in (inner, LoHa(r(16, 1), r(1, 12), r(16, 1), r(1, 12)), LoKr((r(4, 3),), (r(4, 4),), 0.5)):
        layer = Layer("m", "weight", {0: [(1.0, adapter)]})
        baked = bake([layer], [0.7], Recipe(dtype=torch.float64))
        (entry,) = state_dict.parse(baked.tensors).entries
        assert torch.allclose(entry.adapter.delta(weight), adapter.delta(weight, 0.7), atol=1e-12)
    dora = DoRA(inner, 1 + r(16), 0)
    with pytest.raises(StrataError, match=r"unet\.m: DoRA changes a weight by what is in it: connect the model"):
        bake([Layer("m", "weight", {0: [(1.0, dora)]}, shown="unet.m")], [1.0], Recipe())
    layer = Layer("m", "weight", {0: [(1.0, dora)]}, (16, 12), lambda: weight)
    (entry,) = state_dict.parse(bake([layer], [0.7], Recipe(dtype=torch.float64)).tensors).entries
    assert entry.adapter.name == "diff" and torch.allclose(
        entry.adapter.delta(weight), dora.delta(weight, 0.7), atol=1e-12
    )
    cut = bake([layer], [0.7], Recipe(budget=Budget("rank", 5), dtype=torch.float64))
    (entry,) = state_dict.parse(cut.tensors).entries
    measured = float((entry.adapter.delta(weight) - dora.delta(weight, 0.7)).norm() / dora.delta(weight, 0.7).norm())
    assert entry.adapter.rank == 5 and math.isclose(cut.quality.error, measured, rel_tol=1e-6)


def test_layers_of_nothing_are_dropped_or_kept_as_stubs():
    layers = by_name(tensors())
    layers[0] = Layer(layers[0].module, "weight", {0: [(1e-300, layers[0].terms[0][0][1])]})
    quiet = bake([layers[0], layers[1]], [1.0], Recipe(budget=Budget("energy", 0.99)))
    assert not any(key.startswith(layers[0].module) for key in quiet.tensors)
    stubbed = bake([layers[0], layers[1]], [1.0], Recipe(budget=Budget("energy", 0.99), stubs=True))
    assert not stubbed.tensors[f"{layers[0].module}.lora_up.weight"].any()
    assert stubbed.tensors[f"{layers[0].module}.lora_down.weight"].shape[0] == 1


def test_nothing_left_is_said():
    layers = by_name(*[tensors()] * 2)
    with pytest.raises(StrataError, match="every strength is 0"):
        bake(layers, [0.0, 0.0], Recipe())
    with pytest.raises(StrataError, match="cancel each other out"):
        bake(layers, [1.0, -1.0], Recipe(budget=Budget("error", 0.0)))


class TestHashes:
    def test_they_are_kohyas_rule_on_the_bytes_written(self, tmp_path):
        """sd-scripts' ``precalculate_safetensors_hashes``, written down here from its description."""
        found = {f"m{i}.lora_up.weight": torch.randn(400, 300) for i in range(6)}  # longer than a megabyte
        metadata = {"ss_output_name": "x", "modelspec.title": "a title", "strata.recipe": "{}"}
        path = tmp_path / "x.safetensors"
        saved = save(str(path), found, metadata)
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        told = json.loads(raw[8 : 8 + length])["__metadata__"]
        data = hashlib.sha256(raw[8 + length :]).hexdigest()
        assert told["sshs_model_hash"] == data == saved.sha256
        assert told["modelspec.hash_sha256"] == f"0x{data}"
        own = BytesIO(safetensors.torch.save(found, {"ss_output_name": "x"}))
        own.seek(0x100000)
        assert told["sshs_legacy_hash"] == hashlib.sha256(own.read(0x10000)).hexdigest()[:8]
        assert told | metadata == told
        assert saved.size == len(raw)

    def test_the_library_reads_it(self, tmp_path):
        found = tensors(dtype=torch.float16)
        save(str(tmp_path / "x.safetensors"), found, {"ss_output_name": 'odd "name" \u00e9 \u4e2d'})
        again = safetensors.torch.load_file(tmp_path / "x.safetensors")
        assert set(again) == set(found) and all(torch.equal(again[k], found[k]) for k in found)
        with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as opened:
            assert opened.metadata()["ss_output_name"] == 'odd "name" \u00e9 \u4e2d'


class Stop(BaseException):
    """As ComfyUI's interrupt: no Exception."""


class TestNothingIsLeftBehind:
    @pytest.mark.parametrize("name", ["open", "fsync", "link", "makedirs"])
    @pytest.mark.parametrize(
        "code, says",
        [(errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot be written to"), (errno.EIO, "was not saved")],
    )
    def test_a_fault_at_each_stage(self, name, code, says, tmp_path, monkeypatch):
        def fail(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        if name == "open":
            monkeypatch.setattr(writing, "open", fail, raising=False)
        elif name == "link":  # and what stands in for it
            monkeypatch.setattr(writing.os, "link", fail)
            monkeypatch.setattr(writing.os, "rename", fail)
        else:
            monkeypatch.setattr(writing.os, name, fail)
        with pytest.raises(StrataError, match=says):
            save(str(tmp_path / "x.safetensors"), tensors(), {})
        monkeypatch.undo()
        assert os.listdir(tmp_path) == []

    def test_a_disk_that_fills_up_half_way(self, tmp_path, monkeypatch):
        class Full:
            def __init__(self, file):
                self.file, self.room = file, 2000

            def write(self, data):
                self.room -= len(data)
                if self.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return self.file.write(data)

            def __enter__(self):
                return self

            def __exit__(self, *problem):
                self.file.close()

        monkeypatch.setattr(writing, "open", lambda *a: Full(open(*a)), raising=False)  # noqa: SIM115
        monkeypatch.setattr(writing, "CHUNK", 500)
        with pytest.raises(StrataError, match=r"disk is full. It needs .* MB"):
            save(str(tmp_path / "x.safetensors"), tensors(), {})
        assert os.listdir(tmp_path) == []

    def test_a_hundred_interrupts(self, tmp_path, monkeypatch):
        monkeypatch.setattr(writing, "CHUNK", 30)
        found, calls = tensors(), 0
        path = tmp_path / "x.safetensors"

        def count():
            nonlocal calls
            calls += 1

        save(str(tmp_path / "whole.safetensors"), found, {}, count)
        assert calls > 100
        for stop_at in range(1, calls + 1, max(1, calls // 100)):
            seen = 0

            def tick(stop_at=stop_at):
                nonlocal seen
                seen += 1
                if seen == stop_at:
                    raise Stop

            with pytest.raises(Stop):
                save(str(path), found, {}, tick)
            assert os.listdir(tmp_path) == ["whole.safetensors"]

    def test_never_over_an_existing_file(self, tmp_path):
        path = tmp_path / "x.safetensors"
        path.write_bytes(b"precious")
        with pytest.raises(Exists, match=r"x\.safetensors is there already"):
            save(str(path), tensors(), {})
        assert path.read_bytes() == b"precious" and os.listdir(tmp_path) == ["x.safetensors"]

    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
    def test_a_name_that_is_taken_while_the_file_is_written(self, links, tmp_path, monkeypatch):
        path = tmp_path / "x.safetensors"
        if not links:

            def refuse(*args):
                raise OSError(errno.EOPNOTSUPP, "no links here")

            monkeypatch.setattr(writing.os, "link", refuse)
        with pytest.raises(Exists):
            save(str(path), tensors(), {}, lambda: path.write_bytes(b"precious"))
        assert path.read_bytes() == b"precious" and os.listdir(tmp_path) == ["x.safetensors"]

    def test_without_hard_links_it_is_written_all_the_same(self, tmp_path, monkeypatch):
        def refuse(*args):
            raise OSError(errno.EOPNOTSUPP, "no links here")

        monkeypatch.setattr(writing.os, "link", refuse)
        save(str(tmp_path / "x.safetensors"), tensors(), {})
        assert os.listdir(tmp_path) == ["x.safetensors"]


class TestHeader:
    def test_what_readers_look_at(self):
        parents = [
            Parent(
                "a",
                {
                    "ss_tag_frequency": json.dumps({"10_x": {"cat": 3}}),
                    "modelspec.trigger_phrase": "ohwx, cat",
                    "sshs_model_hash": "stale",
                },
            ),
            Parent(
                "b",
                {
                    "ss_tag_frequency": json.dumps({"10_x": {"cat": 2, "dog": 1}}),
                    "modelspec.trigger_phrase": "cat, dog",
                },
            ),
        ]
        found = header("mine", parents, families.SDXL, [8, 8], {"method": "sum"}, "2026-11-28T00:00:00+00:00")
        assert found["ss_base_model_version"].startswith("sdxl_")  # what Forge tells SDXL by
        assert found["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
        assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("8", "8")
        assert json.loads(found["ss_tag_frequency"]) == {"10_x": {"cat": 5, "dog": 1}}
        assert found["modelspec.trigger_phrase"] == "ohwx, cat, dog"
        assert found["modelspec.merged_from"] == "a, b" and found["ss_output_name"] == "mine"
        assert not any("hash" in key for key in found), "stale hashes"
        assert header("m", parents, None, [4, 8], {}, "")["ss_network_dim"] == "Dynamic"

    def test_parents_that_agree_know_their_base_best(self):
        pony = [Parent("a", {"ss_base_model_version": "pony"}), Parent("b", {"ss_base_model_version": "pony"})]
        assert header("m", pony, families.SDXL, [4], {}, "")["ss_base_model_version"] == "pony"
        pony[1] = Parent("b", {"ss_base_model_version": "illustrious"})
        assert header("m", pony, families.SDXL, [4], {}, "")["ss_base_model_version"] == "sdxl_base_v1-0"

    @pytest.mark.parametrize("text", ["[", "[]", '{"x": 3}', '{"x": {"y": "z"}}', "[" * 100_000])
    def test_nonsense_in_a_parents_header(self, text):
        assert "ss_tag_frequency" not in header("m", [Parent("a", {"ss_tag_frequency": text})], None, [4], {}, "")


class TestCommandLine:
    def file(self, path, seed=0, **settings) -> str:
        save(str(path), tensors(seed, **settings), {"ss_base_model_version": "sd_v1"})
        return str(path)

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"lora_unet_other.dora_scale": torch.ones(4)}, "DoRA magnitudes without a layer"),
            ({"lora_unet_a.lora_up.weight": torch.full((16, 4), math.nan)}, "hold NaN or infinity"),
        ],
    )
    def test_what_the_node_refuses_is_refused_here(self, tmp_path, capsys, more, says):
        path = tmp_path / "a.safetensors"
        safetensors.torch.save_file(tensors() | more, path)
        for command in (["convert", str(path)], ["merge", f"{path}:0.5", f"{path}:1"]):
            assert main([*command, "--out", str(tmp_path / "out.safetensors")]) == 1
            assert says in capsys.readouterr().err
        assert os.listdir(tmp_path) == ["a.safetensors"]

    @pytest.mark.parametrize(("strength", "seed"), [("nan", 0), ("inf", 0), ("1e300", 0), ("1", 10**25), ("1", -1)])
    def test_numbers_that_mean_nothing_are_sentences(self, tmp_path, capsys, strength, seed):
        path = tmp_path / "a.safetensors"
        safetensors.torch.save_file(tensors(), path)
        command = ["merge", f"{path}:{strength}", f"{path}:1", "--seed", str(seed), "--method", "dare"]
        assert main([*command, "--out", str(tmp_path / "out.safetensors")]) == 1
        assert ("no strength" if seed == 0 else "The seed is") in capsys.readouterr().err

    def test_what_is_left_out_is_said(self, tmp_path, capsys):
        path = tmp_path / "a.safetensors"
        safetensors.torch.save_file(tensors() | {"junk.weird": torch.ones(2)}, path)
        assert main(["convert", str(path), "--out", str(tmp_path / "out.safetensors")]) == 0
        assert "1 tensors are not understood and left out, such as junk.weird" in capsys.readouterr().err

    def test_merge_with_strengths(self, tmp_path, capsys):
        a, b = self.file(tmp_path / "a.safetensors"), self.file(tmp_path / "b.safetensors", 1)
        out = str(tmp_path / "c.safetensors")
        assert main(["merge", f"{a}:0.5", f"{b}:-2", "--out", out, "--type", "fp32"]) == 0
        assert "rank 8 to 8, error" in capsys.readouterr().out
        found, one, two = deltas(read_lora_file(out).tensors), deltas(tensors(0)), deltas(tensors(1))
        for module in SHAPES:
            assert torch.allclose(found[module], 0.5 * one[module] - 2 * two[module], atol=1e-4)

    def test_resize_to_a_size(self, tmp_path):
        a = self.file(tmp_path / "a.safetensors", rank=6)
        out = tmp_path / "c.safetensors"
        assert main(["resize", a, "--out", str(out), "--size", "0.0065"]) == 0
        assert out.stat().st_size <= 6500
        assert main(["resize", a, "--out", str(tmp_path / "d.safetensors"), "--rank", "2", "--style", "peft"]) == 0
        again = read_lora_file(str(tmp_path / "d.safetensors"))
        assert all(key.endswith(("lora_A.weight", "lora_B.weight")) for key in again.tensors)
        assert again.metadata["ss_network_dim"] == "2" and "error" in json.loads(again.metadata["strata.recipe"])

    def test_extract_gives_back_what_was_put_in(self, tmp_path):
        g = torch.Generator().manual_seed(0)
        base = {f"model.diffusion_model.blocks.{i}.weight": torch.randn(90, 80, generator=g) for i in range(2)}
        base["model.diffusion_model.norm.weight"] = torch.ones(80)
        base["first_stage_model.decoder.weight"] = torch.ones(4, 4)
        change = torch.randn(90, 3, generator=g) @ torch.randn(3, 80, generator=g) * 0.1
        tuned = {key: value.clone() for key, value in base.items()}
        tuned["model.diffusion_model.blocks.1.weight"] += change
        tuned["model.diffusion_model.norm.weight"] += 0.5
        tuned["first_stage_model.decoder.weight"] += 1
        paths = [str(tmp_path / f"{n}.safetensors") for n in ("base", "tuned", "out")]
        for path, held in zip(paths, (base, tuned), strict=False):
            safetensors.torch.save_file(held, path)
        assert (
            main(["extract", *paths[:2], "--out", paths[2], "--largest-rank", "8", "--type", "fp32", "--rank", "3"])
            == 0
        )
        found = {e.module: e.adapter for e in state_dict.parse(read_lora_file(paths[2]).tensors).entries}
        assert set(found) == {"diffusion_model.blocks.1", "diffusion_model.norm"}
        assert torch.allclose(found["diffusion_model.blocks.1"].delta(torch.zeros(90, 80)).float(), change, atol=1e-4)
        assert torch.allclose(found["diffusion_model.norm"].delta(torch.zeros(80)).float(), torch.full((80,), 0.5))

    def test_faults_are_sentences(self, tmp_path, capsys):
        a = self.file(tmp_path / "a.safetensors")
        assert main(["resize", a, "--out", a, "--rank", "2"]) == 1
        assert "is there already" in capsys.readouterr().err
        assert main(["inspect", str(tmp_path / "none.safetensors")]) == 1
        assert main(["extract", a, a, "--out", str(tmp_path / "x.safetensors")]) == 1
        assert "nothing to extract" in capsys.readouterr().err

    def test_inspect(self, tmp_path, capsys):
        assert main(["inspect", self.file(tmp_path / "a.safetensors")]) == 0
        assert "LoRA: 3 weights, rank 4" in capsys.readouterr().out


def test_an_entry_without_any_size_is_refused_by_name():
    from strata.lora_math.adapters import IA3

    with pytest.raises(StrataError, match="m: IA3 does not say what size"):
        bake([Layer("m", "weight", {0: [(1.0, IA3(torch.ones(4), False))]})], [1.0], Recipe())
    assert Entry("m", "weight", IA3(torch.ones(4), False), ()).module == "m"


@pytest.mark.parametrize(
    ("name", "metadata", "keys", "says"),
    [
        ("a\0b", {}, {}, "no file name with a zero"),
        ("a", {"ss_tag": "x" * 101_000_000}, {}, "more than a file's header holds"),
        ("a", {}, {"x\ud800": torch.ones(1)}, "is no name for a tensor"),
    ],
)
def test_what_no_file_can_hold_is_a_sentence(name, metadata, keys, says, tmp_path):
    with pytest.raises(StrataError, match=says):
        save(str(tmp_path / f"{name}.safetensors"), tensors() | keys, metadata)
    assert os.listdir(tmp_path) == []


def test_half_a_letter_in_a_header_is_replaced(tmp_path):
    path = tmp_path / "a.safetensors"
    save(str(path), tensors(), {"ss_tag\ud800": "sad \udc00 face"})
    assert read_lora_file(str(path)).metadata["ss_tag?"] == "sad ? face"
