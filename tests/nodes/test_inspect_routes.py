"""The picture of LoRAs that the page asks for, from a real server: by name and strengths only, and of bounded size."""

import json
import time

import pytest
from test_route_security import JSON, SECRET, ask, secret  # noqa: F401  the fixture

from strata.lora_math.errors import StrataError
from strata.nodes import inspect_routes
from strata.nodes.inspecting.themes import THEMES
from strata.nodes.lora_stack import choose

ONE = {"sources": [{"name": "sd15.safetensors", "model": 1, "clip": 1}], "width": 400, "theme": "dark"}


def picture(server, **changes):
    status, answer = ask(server, "POST", "/strata/inspect", {**ONE, **changes}, **JSON)
    return status, json.loads(answer)


def texts(found) -> list[str]:
    return [shape["text"] for shape in found["shapes"] if shape["kind"] == "text"]


def test_a_loader_and_rows_are_one_stack(server):
    status, found = picture(server)
    assert status == 200 and "sd15" in texts(found)
    assert found["colours"] == THEMES["dark"] and found["width"] == 400
    assert {"do": "save", "rank": 1} in [shape.get("act") for shape in found["shapes"]]
    rows = {"rows": "<lora:sd15:0.5>\noff <lora:flux:1>\n<lora:sdxl:1:lbw=IN*=0,default=1>", "seed": 0}
    status, found = picture(server, sources=[rows, *ONE["sources"]])
    assert status == 200
    assert "3 LoRAs together" in texts(found)
    assert "x 0.5" in texts(found)
    # The same file at 0.5 and 1, and another model's: 1.5 times the strongest at least.
    assert any(shape.get("act", {}).get("do") == "scale" for shape in found["shapes"])


def test_block_weights_of_a_loader_count(server):
    source = {**ONE["sources"][0], "blocks": {"text": "default=0", "family": None, "seed": 0, "invert": False}}
    _, found = picture(server, sources=[source, *ONE["sources"]])
    assert "1 x as strong as the strongest alone" in texts(found)
    source["blocks"]["invert"] = True
    _, found = picture(server, sources=[source, *ONE["sources"]])
    assert "2 x as strong as the strongest alone" in texts(found)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"sources": []}, 200),
        ({"sources": [{"name": "gone", "model": 1, "clip": 1}]}, 200),
        ({"sources": [{"rows": "<lora:gone:1>", "seed": 0}]}, 200),
        ({"sources": [{"rows": "<lora:sd15:1:lbw=NOT A BLOCK>", "seed": 0}, *ONE["sources"]]}, 200),
        ({"sources": [{"rows": 5}]}, 400),
        ({"sources": [{"rows": "", "seed": "x"}]}, 200),
        ({"sources": [{"name": 5, "model": 1, "clip": 1}]}, 400),
        ({"sources": [{"name": "sd15.safetensors", "model": True, "clip": 1}]}, 200),
        ({"sources": [{"name": "sd15.safetensors", "model": 10**400, "clip": 1}]}, 200),
        ({"sources": [{"name": "sd15.safetensors", "model": 1, "clip": float("nan")}]}, 200),
        ({"sources": [{"name": "sd15.safetensors", "model": 1, "clip": 1, "blocks": "x"}]}, 400),
        ({"sources": ONE["sources"] * 65}, 400),
        ({"sources": None}, 400),
        ({"sources": ["x"]}, 400),
        ({"width": 100}, 400),
        ({"width": 10**9}, 400),
        ({"width": "400"}, 400),
        ({"width": True}, 400),
        ({"theme": "pink"}, 400),
        ({"theme": 5}, 400),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_cannot_be_shown_is_a_sentence(server, changes, status):
    found = picture(server, **changes)
    assert (found[0], list(found[1])) == (status, ["error"])
    assert len(found[1]["error"]) < 400


def test_no_name_leads_out_of_the_loras_folders(server, secret):  # noqa: F811
    for name in ("../s.safetensors", f"{server.base}/s.safetensors", "..\\..\\private\\s.safetensors", "s.txt"):
        for source in ({"name": name, "model": 1, "clip": 1}, {"rows": f"<lora:{name}:1>", "seed": 0}):
            status, answer = ask(server, "POST", "/strata/inspect", {**ONE, "sources": [source]}, **JSON)
            assert status in (200, 400) and list(json.loads(answer)) == ["error"]
            assert SECRET.encode() not in answer


def test_what_is_not_looked_at_is_not_read(monkeypatch):
    read = []
    monkeypatch.setattr(inspect_routes, "choose", lambda text, seed: read.append(text) or choose(text, seed))
    rows = {"rows": "<lora:gone:1>\n" * 20}
    with pytest.raises(StrataError, match="gone"):
        inspect_routes._picture([rows] * 33, 400, "dark")
    assert len(read) == 1


def test_many_rows_of_large_files_are_cut_and_the_answer_stays_small(server):
    rows = {"rows": "<lora:sd15:1>\n" * 1000, "seed": 0}
    started = time.monotonic()
    status, answer = ask(server, "POST", "/strata/inspect", {**ONE, "sources": [rows]}, **JSON)
    assert status == 200 and len(answer) < 300_000
    assert json.loads(answer)["notes"] == ["only the first 16 of 1000 LoRAs are looked at"]
    assert time.monotonic() - started < 60
