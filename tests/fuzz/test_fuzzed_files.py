"""A bounded, seeded part of what ``dev.py fuzz`` runs for longer, and the files that chance would make too rarely."""

import json
import struct

import pytest
import torch
from broken_bytes import boundaries, join, pack
from cases import Source
from laws import Bench, little_memory

from strata.lora_math.reading import files
from strata.lora_math.reading.trigger_words import MAX_SIDECAR
from strata.nodes.comfy.library import CACHE
from strata.nodes.desk.profile import profile

CASES, CHUNK = 300, 50
LORA = {
    "lora_unet_x.lora_up.weight": torch.ones(4, 2),
    "lora_unet_x.lora_down.weight": torch.ones(2, 4),
    "lora_unet_x.alpha": torch.tensor(1.0),
}


@pytest.fixture(scope="module")
def source(models):
    return Source(models)


@pytest.fixture(scope="module")
def bench(models):
    return Bench(models)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about what some of the pickles hold
@pytest.mark.parametrize("first", range(0, CASES, CHUNK))
def test_every_file_gets_a_result_or_a_reason(source, bench, loras, first):
    outcomes = set()
    for number in range(first, first + CHUNK):
        folder = loras / str(number)
        folder.mkdir()
        case = source.case(f"suite {number}")
        try:
            outcomes.add(bench.run(case, folder))
        except Exception as problem:
            raise AssertionError(f"case {number}, {case.kind} on {case.family}: {problem}") from problem
    assert outcomes >= {"refused", "applied"}, "the cases are too much alike"


def test_a_case_is_the_same_whenever_it_is_made(source):
    assert source.case("suite 7") == source.case("suite 7")


def test_a_file_cut_at_any_boundary_is_refused(source, tmp_path):
    content = pack(source.whole["FLUX.1"], {"ss_network_dim": "4"})
    path = tmp_path / "cut.safetensors"
    for end in boundaries(content):
        path.write_bytes(content[:end])
        with pytest.raises(files.LoraFileError, match=r"cut\.safetensors.*(cut off|empty|not a safetensors)"):
            files.read_lora_file(str(path))


def test_thousands_of_keys_are_read(loras):
    tensors = {f"lora_unet_{i}.{key.partition('.')[2]}": tensor for i in range(7000) for key, tensor in LORA.items()}
    content = pack(tensors)
    (loras / "many.safetensors").write_bytes(content)
    with little_memory(2 * len(content)):
        lora = CACHE.get("many.safetensors")
    assert len(lora.contents.entries) == 7000


def test_fifty_megabytes_of_metadata_are_read_in_twice_their_size(loras):
    tags = json.dumps({"10_x": {f'tag "{i}"': i for i in range(1000)}})
    content = pack(LORA, {"ss_tag_frequency": tags * 2000, "ss_output_name": "x"})
    assert len(content) > 50e6
    (loras / "wordy.safetensors").write_bytes(content)
    with little_memory(2 * len(content)):
        lora = CACHE.get("wordy.safetensors")
        assert profile("wordy.safetensors").answer["about"].startswith("LoRA of an unknown family, rank 2")
    assert lora.metadata["ss_output_name"] == "x"


def test_a_header_full_of_tags_does_not_blow_up(loras):
    tags = json.dumps({"10_x": {f"{i:x}": i for i in range(180_000)}}, separators=(",", ":"))
    content = pack(LORA, {"ss_tag_frequency": tags, "ss_dataset_dirs": '{"10_x": {"img_count": 77}}'})
    assert 2.5e6 < len(tags) < MAX_SIDECAR
    (loras / "tagged.safetensors").write_bytes(content)
    with little_memory(2 * len(content)):
        assert profile("tagged.safetensors").answer["trigger_words"] == ["x"]


CROWDED = {
    "lists": b'{"__metadata__":[' + b"[]," * 4_000_000 + b"[]]}",
    "pairs": b'{"__metadata__":{' + b",".join(b'"%x":"ab"' % i for i in range(1_000_000)) + b"}}",
    "numbers": b'{"__metadata__":[' + b"1.5," * 4_000_000 + b"1]}",
    "tensors": b"{"
    + b",".join(b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(200_000))
    + b"}",
    "letters": ('{"__metadata__":{"a":"' + "\U0001f600" * 5_000_000 + '"}}').encode(),
}


@pytest.mark.parametrize("kind", CROWDED)
def test_a_header_that_would_take_far_more_memory_than_it_has_is_refused(tmp_path, kind):
    path = tmp_path / "crowded.safetensors"
    path.write_bytes(join(CROWDED[kind], b""))
    with little_memory(2 * path.stat().st_size), pytest.raises(files.LoraFileError, match="more than any LoRA has"):
        files.read_lora_file(str(path))


def test_a_file_that_claims_more_than_the_machine_has_is_refused(tmp_path):
    """A sparse file really has that size, and no disk holds it."""
    path, size = tmp_path / "sparse.safetensors", 1 << 43
    header = json.dumps({"a": {"dtype": "U8", "shape": [1 << 30, 1 << 13], "data_offsets": [0, size]}}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    with little_memory(0), pytest.raises(files.LoraFileError, match=r"sparse\.safetensors.*not enough free memory"):
        files.read_lora_file(str(path))
