"""Every kind of bad file gets its own message, quickly, with its name, size, reason and advice; good ones come back as written."""

import json
import math
import os
import pickle
import struct
import time
import zipfile

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from strata.lora_math.extremes import largest
from strata.lora_math.reading import contents, files, pickles

TENSORS = {
    "a.lora_up.weight": torch.randn(8, 2),
    "a.lora_down.weight": torch.randn(2, 8).half(),
    "a.alpha": torch.tensor(1.0),
}


def good_bytes(metadata=None) -> bytes:
    return safetensors.torch.save(TENSORS, metadata)


def with_header(header, data: bytes = b"", length: int | None = None) -> bytes:
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(packed) if length is None else length) + packed + data


class Evil:
    def __reduce__(self):
        return (os.system, ("echo pwned > pwned.txt",))


BAD = {
    "empty": (b"", "is empty"),
    "three bytes": (b"abc", "not a safetensors"),
    "zeros": (bytes(4096), "nothing but zeros"),
    "web page": (b"<!DOCTYPE html><html><body>Log in</body></html>" * 20, "web page"),
    "json": (json.dumps({"error": "not found"}).encode() * 50, "JSON"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    "pickle under another name": (pickle.dumps(list(range(3000)), 2), "pickled"),
    "gguf": (b"GGUF" + bytes(100), "GGUF"),
    "cut in its data": (good_bytes()[:-5], "cut off: 5 bytes"),
    "cut in its header": (good_bytes()[:40], "cut off inside its header"),
    "huge header": (with_header({"a": 1}, bytes(99), length=2**62), "more than any LoRA"),
    "header is no json": (with_header(b'{"a": ['), "header is damaged"),
    "header not utf-8": (with_header(b'{"\xff\xfe": 1}'), "header is damaged"),
    "header deeply nested": (with_header(b'{"a":' * 100000 + b"1" + b"}" * 100000), "header"),
    "a size past all counting": (
        with_header({"a.lora_up.weight": {"dtype": "F32", "shape": [2**31] * 4 + [0], "data_offsets": [0, 0]}}),
        "makes no sense",
    ),
    "offsets missing": (with_header({"a.lora_up.weight": {"dtype": "F32", "shape": [1]}}), "makes no sense"),
    "offsets lie": (
        with_header({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 4]}}, bytes(4)),
        "contradict its header",
    ),
    "offsets overlap": (
        with_header(
            {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"},
            bytes(8),
        ),
        "contradict its header",
    ),
    "unknown dtype": (
        with_header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        "stores numbers as X9",
    ),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_a_bad_safetensors_file_says_what_is_wrong(tmp_path, data, reason):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(data)
    start = time.process_time()
    with pytest.raises(files.LoraFileError) as error:
        files.read_lora_file(str(path))
    assert time.process_time() - start < 1
    text = str(error.value)
    assert reason in text
    assert "broken.safetensors" in text
    assert files.show_size(len(data)) in text or not data
    assert text.endswith((".", "level."))
    assert path.read_bytes() == data, "the file was changed"


@pytest.mark.parametrize("suffix", files.PICKLED)
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"evil{suffix}"
    torch.save({"a.lora_up.weight": torch.zeros(1), "b": Evil()}, path)
    with pytest.raises(files.LoraFileError, match="run program code"):
        files.read_lora_file(str(path))
    assert not (tmp_path / "pwned.txt").exists()


@pytest.mark.parametrize(
    "data", [b"not a pickle at all", b"PK\x03\x04" + bytes(60), b"\x80\x02" + bytes(10)], ids=["text", "zip", "cut"]
)
def test_a_damaged_pickle_says_so(tmp_path, data):
    path = tmp_path / "damaged.pt"
    path.write_bytes(data)
    with pytest.raises(files.LoraFileError, match=r"damaged\.pt.*(damaged|program code)"):
        files.read_lora_file(str(path))


def test_a_pickled_list_and_a_web_page_under_a_pickle_name(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(files.LoraFileError, match="no named tensors"):
        files.read_lora_file(str(tmp_path / "list.pt"))
    (tmp_path / "page.ckpt").write_bytes(b"<html>login</html>")
    with pytest.raises(files.LoraFileError, match="web page"):
        files.read_lora_file(str(tmp_path / "page.ckpt"))


def test_a_folder_a_missing_file_and_a_pipe(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(files.LoraFileError, match="it is a folder"):
        files.read_lora_file(str(tmp_path / "folder.safetensors"))
    with pytest.raises(files.LoraFileError, match="it is gone"):
        files.read_lora_file(str(tmp_path / "gone.safetensors"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        with pytest.raises(files.LoraFileError, match="not an ordinary file"):
            files.read_lora_file(str(tmp_path / "pipe.safetensors"))


def test_a_good_file_comes_back_as_written(tmp_path):
    path = tmp_path / "good.safetensors"
    path.write_bytes(good_bytes({"ss_network_dim": "2"}))
    found = files.read_lora_file(str(path))
    assert found.metadata == {"ss_network_dim": "2"}
    assert found.tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(found.tensors[key], tensor) and found.tensors[key].dtype == tensor.dtype
        for key, tensor in TENSORS.items()
    )
    assert found.nbytes == sum(tensor.nbytes for tensor in TENSORS.values())
    place = files.read_header(str(path)).tensors["a.lora_down.weight"]
    assert (place.dtype, place.shape) == (torch.float16, (2, 8))


def test_a_file_written_anew_in_place_does_not_change_what_was_read(tmp_path):
    path = tmp_path / "live.safetensors"
    path.write_bytes(good_bytes())
    found = files.read_lora_file(str(path))
    with open(path, "r+b") as file:  # a trainer that saves its next epoch over the old one
        file.truncate(0)
    assert torch.equal(found.tensors["a.lora_up.weight"], TENSORS["a.lora_up.weight"])


@pytest.mark.parametrize("nested", [False, True])
def test_pickled_loras_are_read(tmp_path, nested):
    path = tmp_path / "old.pt"
    torch.save({"state_dict": TENSORS, "epoch": 3} if nested else TENSORS, path)
    found = files.read_lora_file(str(path))
    assert found.tensors.keys() == TENSORS.keys()
    assert found.metadata == {}


def test_a_pickle_that_holds_itself_is_read(tmp_path):
    itself = dict(TENSORS)
    itself["state_dict"] = itself
    torch.save(itself, tmp_path / "self.pt")
    assert files.read_lora_file(str(tmp_path / "self.pt")).tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize("legacy", [False, True])
def test_the_names_in_a_pickle_are_known_before_it_is_read(tmp_path, monkeypatch, legacy):
    path = tmp_path / "old.pt"
    torch.save({"state_dict": TENSORS, "epoch": 3}, path, _use_new_zipfile_serialization=not legacy)
    asked = []
    files.read_lora_file(str(path), lambda names: asked.append(set(names)))
    assert asked[0] >= TENSORS.keys()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the tensors were read"))
    with pytest.raises(files.LoraFileError, match=r"old\.pt \(.*\): it is a checkpoint\. Move it\."):
        files.read_lora_file(str(path), lambda names: ("it is a checkpoint", "Move it."))


def test_a_pickle_that_describes_more_than_any_lora_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    (tmp_path / "a.pt").write_bytes(b"\x80\x02N." * 3 + b"]" * pickles.MAX_LIST + b".")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("b/data.pkl", b"]" * pickles.MAX_LIST + b".")
    for name in "ab":
        with pytest.raises(files.LoraFileError, match="the description of its tensors is longer than any LoRA's"):
            files.read_lora_file(str(tmp_path / f"{name}.pt"))


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_a_pickled_tensor_that_claims_more_than_it_holds_is_left_out(tmp_path):
    odd = {"wide": torch.zeros(1).expand(1 << 20, 1 << 20), "sparse": torch.eye(3).to_sparse(), 3: torch.ones(1)}
    torch.save({**TENSORS, **odd}, tmp_path / "wide.pt")
    assert files.read_lora_file(str(tmp_path / "wide.pt")).tensors.keys() == TENSORS.keys()


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    torch.save({**TENSORS, "x": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    with pytest.raises(files.LoraFileError, match=r"bomb\.pt.*unpacks to 4\.0 MB"):
        files.read_lora_file(str(tmp_path / "bomb.pt"))


def test_numbers_that_lie_across_the_steps_of_their_type_are_read(tmp_path):
    header = {
        "flag": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]},
        "x": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    path = tmp_path / "odd.safetensors"
    path.write_bytes(with_header(header, b"\0\1\7" + struct.pack("<2f", 1.5, -2)))
    found = files.read_lora_file(str(path)).tensors
    assert found["flag"].tolist() == [False, True, True]
    assert found["x"].tolist() == [1.5, -2]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "new.safetensors"
    path.write_bytes(good_bytes())
    read = contents.read_tensors

    def slowly(*arguments):
        path.write_bytes(good_bytes())
        return read(*arguments)

    monkeypatch.setattr(contents, "read_tensors", slowly)
    with pytest.raises(files.LoraFileError, match=r"new\.safetensors.*changed while it was being read"):
        files.read_lora_file(str(path))


SIZES = st.lists(
    st.tuples(
        st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.int8, torch.bool]), st.integers(0, 40)
    ),
    min_size=1,
    max_size=12,
)


@given(SIZES, st.data())
def test_whatever_stripes_a_file_is_read_in(tmp_path_factory, sizes, data):
    """The reference is safetensors' own reader, and a look at each tensor by itself."""
    numbers = st.sampled_from([0.0, 1.0, -3.0, 2e6, math.nan, math.inf])
    tensors = {}
    for at, (dtype, size) in enumerate(sizes):
        values = torch.arange(size) % 2 if dtype in (torch.int8, torch.bool) else torch.randn(size)
        tensors[f"a{at}.alpha" if data.draw(st.booleans()) else f"a{at}.lora_up.weight"] = values.to(dtype)
    spoiled = data.draw(st.sampled_from([None, *(key for key, tensor in tensors.items() if tensor.numel())]))
    if spoiled is not None and tensors[spoiled].is_floating_point():
        tensors[spoiled][data.draw(st.integers(0, tensors[spoiled].numel() - 1))] = data.draw(numbers)
    path = str(tmp_path_factory.getbasetemp() / "striped.safetensors")
    safetensors.torch.save_file(tensors, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "LEAST_STRIPE", data.draw(st.integers(8, 100)))
        patch.setattr(contents._Reader, "at_once", data.draw(st.booleans()))
        file = files.read_lora_file(path)
    for key, tensor in safetensors.torch.load_file(path).items():
        assert file.tensors[key].dtype == tensor.dtype
        torch.testing.assert_close(file.tensors[key], tensor, rtol=0, atol=0, equal_nan=True)
    looked = {key: t for key, t in file.tensors.items() if not key.endswith(".alpha")}
    told = contents.check_numbers(looked, contents.Contents(file.tensors, file.largest))
    alone = contents.check_numbers({key: t.clone() for key, t in looked.items()})
    assert told.broken == alone.broken
    assert told.largest >= alone.largest or alone.broken


def test_numbers_that_a_conversion_has_made_are_looked_at(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.ones(4), "b.alpha": torch.tensor([math.inf])}, path)
    file = files.read_lora_file(str(path))
    known = contents.Contents(file.tensors, file.largest)
    assert file.largest == 1
    assert contents.check_numbers({"c": file.tensors["a"]}, known) == (frozenset(), 1.0)
    for made in (file.tensors["a"] * math.nan, file.tensors["b.alpha"]):
        assert contents.check_numbers({"a": file.tensors["a"], "c": made}, known).broken == {"c"}


def test_a_number_beyond_a_million_counts_as_infinity():
    tensors = {
        "fine": torch.tensor([1e6, -1e6]),
        "large": torch.tensor([0.0, -1.1e6]),
        "double": torch.tensor(1e300).double(),
    }
    assert contents.check_numbers(tensors).broken == {"large", "double"}


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn], ids=str
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_found(dtype, value):
    fine, bad = torch.ones(5).to(dtype), torch.tensor([1.0, value, 1.0]).to(dtype)
    holds = not torch.isfinite(bad.float()).all()  # e4m3fn has no infinity
    tensors = {"fine": fine, "bad": bad, "empty": torch.zeros(0).to(dtype), "int": torch.tensor([1])}
    assert contents.check_numbers(tensors).broken == ({"bad"} if holds else set())


@given(st.data())
def test_what_a_look_at_the_whole_file_finds_is_what_one_at_each_tensor_does(data):
    """Tensors of one buffer with gaps, in any order and type, some of them transposed: as a file's and as none is."""
    dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.int16])
    buffer, at, tensors = torch.zeros(4096, dtype=torch.uint8), 0, {}
    numbers = st.sampled_from([0.0, 1.0, -3.0, 9e4, 2e6, math.nan, math.inf, -math.inf])
    for name in "abcdefgh"[: data.draw(st.integers(1, 8))]:
        dtype = data.draw(dtypes)
        at += -at % dtype.itemsize
        rows, columns = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 5))
        size = rows * columns * dtype.itemsize
        tensor = buffer[at : at + size].view(dtype).reshape(rows, columns)
        for place in range(rows * columns):
            tensor.view(-1)[place] = data.draw(numbers) if dtype.is_floating_point else 7
        tensors[name] = tensor.T if data.draw(st.booleans()) else tensor
        at += size + data.draw(st.sampled_from([0, 0, 2, 100]))
    found = contents.check_numbers(dict(data.draw(st.permutations(list(tensors.items())))))
    each = {name: largest(tensor) for name, tensor in tensors.items()}
    assert found.broken == {name for name, t in tensors.items() if t.is_floating_point() and not each[name] <= 1e6}
    assert all(number <= found.largest for name, number in each.items() if name not in found.broken)
