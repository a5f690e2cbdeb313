"""What the browser is told, by a real server: profiles of LoRAs, layouts, what a weights text means, presets."""

import json
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import torch
from safetensors.torch import save_file


def get(server, path, **query):
    return server.get_json(f"{path}?{urllib.parse.urlencode(query)}")


def status_of(server, method, path, body=b"", **headers):
    request = urllib.request.Request(server.url + path, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as problem:
        text = problem.read()
        return problem.code, json.loads(text) if text.startswith(b"{") else None


def send(server, method, path, body):
    return status_of(server, method, path, json.dumps(body).encode(), **{"Content-Type": "application/json"})


def weights(server, text, **more):
    return server.post_json("/strata/weights", {"text": text, **more})


# The numbers of blocks are those of the published models.
LAYOUTS = {
    "sd15.safetensors": ("SD1.5", {"IN": 12, "M": 1, "OUT": 12, "TE": 1, "OTHER": 1}),
    "sdxl.safetensors": ("SDXL", {"IN": 9, "M": 1, "OUT": 9, "TE": 2, "OTHER": 1}),
    "flux.safetensors": ("FLUX.1", {"D": 19, "S": 38, "TE": 2, "OTHER": 1}),
    "z-image.safetensors": ("Z-Image", {"L": 30, "CR": 2, "NR": 2, "TE": 1, "OTHER": 1}),
    "wan.safetensors": ("Wan", {"B": 40, "TE": 1, "OTHER": 1}),
    "qwen.safetensors": ("Qwen-Image", {"T": 60, "TE": 1, "OTHER": 1}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_profile_knows_family_and_layout_without_a_model(server, name):
    family, sizes = LAYOUTS[name]
    found = get(server, "/strata/lora", name=name)
    assert found["family"] == family
    assert {group["name"]: len(group["blocks"]) for group in found["layout"]["groups"]} == sizes
    assert not found["exact"]
    assert "rank 1" in found["about"]


def test_energy_lies_where_the_tensors_are(server):
    """Against norms computed here from the file, block by block: of rank 1, so a product's norm is the product of the norms."""
    from safetensors.torch import load_file

    tensors = load_file(server.base / "models" / "loras" / "wan.safetensors")
    expected: dict[str, float] = {}
    for key, up in tensors.items():
        if key.endswith(".lora_up.weight") and ".blocks." in key:
            down = tensors[key.replace("lora_up", "lora_down")].double()
            block = f"B{int(key.split('.blocks.')[1].split('.')[0]):02d}"
            assert up.shape[1] == len(down) == 1
            norm = torch.linalg.vector_norm(up.double()) * torch.linalg.vector_norm(down)
            expected[block] = expected.get(block, 0.0) + float(norm**2)
    found = get(server, "/strata/lora", name="wan.safetensors")["blocks"]
    assert set(expected) <= set(found)
    scale = found["B00"]["share"] / expected["B00"]
    for block, energy in expected.items():
        assert found[block]["share"] == pytest.approx(scale * energy, rel=1e-4)
    assert sum(row["share"] for row in found.values()) == pytest.approx(1)


def test_blocks_without_tensors_are_absent(server):
    found = get(server, "/strata/lora", name="sd15.safetensors")["blocks"]
    assert {"IN01", "M00", "OUT11", "TE:clip_l"} <= found.keys()
    assert not {"IN00", "IN03", "OTHER"} & found.keys()  # a convolution and a downsampler: this LoRA has attention only


def test_trigger_words(server):
    assert get(server, "/strata/lora", name="sd15.safetensors")["trigger_words"] == ["ohwx woman", "portrait"]


def test_hostile_metadata_arrives_as_short_text(server):
    metadata = {
        "ss_tag_frequency": json.dumps({"1_x": {f"tag {n}" * 10: n for n in range(80000)}}),
        "ss_output_name": "<script>alert(1)</script>",
        "ss_datasets": "{broken",
        "modelspec.thumbnail": "data:image/png;base64," + "A" * 200_000,
    }
    save_file({"lora_unet_input_blocks_1_1_proj_in.diff": torch.zeros(320, 320)}, _lora(server, "hostile"), metadata)
    raw = server.get("/strata/lora?name=hostile.safetensors")
    assert len(raw) < 20_000
    shown = dict(json.loads(raw)["metadata"])
    assert shown["ss_output_name"] == "<script>alert(1)</script>"
    assert shown["ss_tag_frequency"].endswith("characters)")


def _lora(server, stem):
    return server.base / "models" / "loras" / f"{stem}.safetensors"


def test_a_replaced_file_has_a_new_profile(server):
    up, down = torch.ones(320, 1), torch.ones(1, 320)
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    for rank in (1, 2):
        save_file(
            {f"{name}.lora_up.weight": up.repeat(1, rank), f"{name}.lora_down.weight": down.repeat(rank, 1)},
            _lora(server, "epoch"),
        )
        assert f"rank {rank}" in get(server, "/strata/lora", name="epoch.safetensors")["about"]


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..\\server.log", "no such.safetensors", "sd1"])
def test_only_files_of_the_lora_folders_are_read(server, name):
    found = get(server, "/strata/lora", name=name)
    assert list(found) == ["error"]
    assert "not in your loras folders" in found["error"]


def test_a_broken_file_is_an_answer_with_its_reason(server):
    _lora(server, "cut").write_bytes(_lora(server, "wan").read_bytes()[:5000])
    assert "cut.safetensors" in get(server, "/strata/lora", name="cut.safetensors")["error"]


def test_layout_of_a_family(server):
    groups = get(server, "/strata/layout", family="SDXL")["groups"]
    assert [block["rule"] for block in groups[0]["blocks"]] == [f"IN{n}" for n in range(9)]
    assert status_of(server, "GET", "/strata/layout?family=nonsense")[0] == 400
    assert get(server, "/strata/layout", family="")["family"] == "SDXL"  # the usual one, before anything says which


def test_a_text_by_names(server):
    found = weights(server, "IN4-8=0.5, M0=-1, TE=0.4, default=0", family="SDXL")
    assert found["plain"]
    expected = {f"IN{n:02d}": 0.5 if n >= 4 else 0 for n in range(9)} | {f"OUT{n:02d}": 0 for n in range(9)}
    expected |= {"M00": -1, "TE:clip_l": 0.4, "TE:clip_g": 0.4, "OTHER": 0}
    assert found["values"] == expected


def test_a_vector_is_spelled_out(server):
    found = weights(server, ",".join(["0.5"] + ["1"] * 12 + ["0"] + ["0.25"] * 12), family="SD1.5")
    assert found["values"]["TE:clip_l"] == 0.5
    assert found["values"]["IN11"] == 1
    assert found["values"]["M00"] == 0
    assert found["values"]["OUT00"] == 0.25


def test_rules_on_parts_are_told_apart(server):
    found = weights(server, "D*=1, *.mlp=0, TE:clip_l.3=0.2", family="FLUX.1")
    assert not found["plain"]
    assert found["fine"]["D07"] == ["*.mlp=0"]
    assert found["fine"]["TE:clip_l"] == ["TE:clip_l.3=0.2"]
    assert "TE:t5xxl" not in found["fine"]


def test_blocks_that_the_layout_lacks_make_a_text_not_plain(server):
    found = weights(server, "S3=0.5", family="SDXL")
    assert not found["plain"]
    assert found["notes"]


def test_an_unreadable_text_is_an_answer(server):
    found = weights(server, "IN4 0.5", family="SDXL")
    assert set(found) == {"error"}


def test_the_layout_of_a_lora_decides(server):
    assert weights(server, "", lora="flux.safetensors")["family"] == "FLUX.1"
    assert weights(server, "B3=0", lora="sd15.safetensors", family="Wan")["family"] == "Wan"


def test_without_any_model_the_text_decides(server):
    assert weights(server, "D3=0.5, S*=0")["family"] == "FLUX.1"
    assert weights(server, "B3=0.5")["family"] in ("Wan", "PixArt")
    assert weights(server, "")["family"] == "SDXL"


def test_inverting(server):
    found = weights(server, "IN4=0.8, default=0.25", family="SDXL", invert=True)
    assert found["values"]["IN04"] == 0.2
    assert found["values"]["OUT00"] == 0.75


def test_presets_are_saved_listed_and_deleted(server):
    code, answer = send(server, "POST", "/strata/presets", {"name": "Mine", "weights": "IN*=0.3", "family": "SDXL"})
    assert code == 200
    assert {"name": "Mine", "weights": "IN*=0.3", "about": "", "families": ["SDXL"], "user": True} in answer["presets"]
    assert "Mine" in server.object_info("StrataLoraBlockWeights")["input"]["required"]["preset"][1]["options"]
    assert weights(server, "mine", family="SDXL")["values"]["IN05"] == 0.3
    assert not any(p["name"] == "Mine" for p in get(server, "/strata/presets", family="FLUX.1")["presets"])
    code, answer = send(server, "DELETE", "/strata/presets", {"name": "Mine", "family": "SDXL"})
    assert "Mine" not in answer["names"]
    assert "error" in send(server, "DELETE", "/strata/presets", {"name": "FLUXALL"})[1]


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "nonsense"},
        *({"name": n} for n in ("", "none", "a\nb", "x" * 101, "default=0", "\ud800")),
        {"about": "\ud800"},
    ],
)
def test_a_preset_that_cannot_be_used_is_not_saved(server, change):
    body = {"name": "Bad", "weights": "IN*=0.3", "family": "SDXL", **change}
    assert "error" in send(server, "POST", "/strata/presets", body)[1]


def test_changes_need_json_from_the_same_origin(server):
    body = json.dumps({"name": "Evil", "weights": "IN*=0.3", "family": "SDXL"}).encode()
    assert status_of(server, "POST", "/strata/presets", body, **{"Content-Type": "text/plain"})[0] == 415
    crossing = {"Content-Type": "application/json", "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert status_of(server, "POST", "/strata/presets", body, **crossing)[0] == 403
    assert "Evil" not in get(server, "/strata/presets", family="SDXL")["names"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"text": 5}', b'{"text": "", "seed": "x"}', b'{"text": "", "family": "x"}']
)
def test_malformed_requests(server, body):
    assert status_of(server, "POST", "/strata/weights", body, **{"Content-Type": "application/json"})[0] == 400


def in_pieces(server, method, path, *pieces, pause=0.05):
    """(status, answer) of a request whose body arrives in these pieces."""
    where = urllib.parse.urlsplit(server.url)
    length = sum(map(len, pieces))
    head = f"{method} {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        for piece in pieces:
            time.sleep(pause)
            connection.sendall(piece)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("path", ["weights", "rows", "import", "presets", "sets"])
def test_a_body_may_arrive_in_pieces(server, path):
    body = {"text": "<lora:a:1>"} if path in ("rows", "import") else {"text": "IN4=0.5", "family": "SDXL"}
    body |= {"name": "In pieces", "weights": "IN4=0.5", "rows": "<lora:a:1>"}
    text = json.dumps(body).encode()
    code, answer = in_pieces(server, "POST", f"/strata/{path}", text[:10], text[10:20], text[20:])
    assert code == 200
    assert "error" not in answer
    if path == "weights":
        assert answer["values"]["IN04"] == 0.5
    if path in ("presets", "sets"):
        assert send(server, "DELETE", f"/strata/{path}", body)[0] == 200


def test_too_long_a_body(server):
    body = json.dumps({"text": "x" * 200_000}).encode()
    assert status_of(server, "POST", "/strata/weights", body, **{"Content-Type": "application/json"})[0] == 413


def test_after_a_run_the_loaded_model_says_what_is_where(server):
    """The demo's checkpoint is an SD1.5: its own key map then decides, and the profile says that the file fits."""
    shutil.copy(_lora(server, "strata_demo_warm"), _lora(server, "fresh"))  # no other test has run this one
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "strata_demo_sd15.safetensors"}},
        "2": {
            "class_type": "StrataLoraLoader",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "lora_name": "fresh.safetensors",
                "strength_model": 1.0,
                "strength_clip": 1.0,
                "on_problem": "error",
            },
        },
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 3]}},
    }
    before = get(server, "/strata/lora", name="fresh.safetensors")
    server.run(prompt)
    after = get(server, "/strata/lora", name="fresh.safetensors")
    assert (before["exact"], after["exact"]) == (False, True)
    assert (before["fit"], after["fit"]) == ("", "fits SD1.5")
    assert before["blocks"].keys() == after["blocks"].keys()
    for block, row in before["blocks"].items():
        assert row["share"] == pytest.approx(after["blocks"][block]["share"], rel=1e-5)


def test_text_encoders_alone_do_not_say_that_the_model_is_fitting(server):
    """CLIP-L is SD1.5's and FLUX's: a file of the one would be told to fit the other."""
    shutil.copy(_lora(server, "strata_demo_warm"), _lora(server, "clip_only"))
    values = {"lora_name": "clip_only.safetensors", "strength_model": 1.0, "strength_clip": 1.0, "on_problem": "error"}
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "strata_demo_sd15.safetensors"}},
        "2": {"class_type": "StrataLoraLoader", "inputs": {"clip": ["1", 1], **values}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 3]}},
    }
    server.run(prompt)
    after = get(server, "/strata/lora", name="clip_only.safetensors")
    assert (after["fit"], after["fits"]) == ("", None)


def test_a_tag_is_written_with_block_weights_and_a_strength_over_time(server):
    asked = {"name": "a:lbw=b", "blocks": "M*=1", "time": "1@0, 0@.5"}
    assert send(server, "POST", "/strata/tag", asked) == (
        200,
        {"head": "<lora:a\\:lbw=b", "tail": ":lbw=M*=1:at=1@0%, 0@50%"},
    )
    assert send(server, "POST", "/strata/tag", {"name": "a"}) == (200, {"head": "<lora:a", "tail": ""})
    _, answer = send(server, "POST", "/strata/tag", {"name": "a", "time": "1@x"})
    assert "no point of a strength over time" in answer["error"]
    masked = {"name": "a", "blocks": "M*=1", "time": "fade in", "mask": " -2 + TEXT "}
    assert send(server, "POST", "/strata/tag", masked)[1]["tail"] == ":mask=-2+text:lbw=M*=1:at=fade in"
    _, answer = send(server, "POST", "/strata/tag", {"name": "a", "mask": "left"})
    assert "takes the number of a mask" in answer["error"]


def test_the_noise_of_a_run_that_nobody_knows(server):
    node = {"node": "KSampler", "slot": 0, "values": {"steps": 4}}
    assert send(server, "POST", "/strata/noise", {"run": "gone", "way": [node]}) == (200, {"steps": None})
    for wrong in (None, {}, ["KSampler"], [{**node, "node": 1}], [{**node, "slot": -1}], [{**node, "values": []}]):
        assert send(server, "POST", "/strata/noise", {"run": "gone", "way": wrong})[0] == 400
