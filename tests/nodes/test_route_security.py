"""What the routes refuse, asked of a real server: other files, other sites, other methods, too much. And that it stays refused."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import pickle
import re
import shutil
import urllib.parse

import psutil
import pytest
import torch
from safetensors.torch import save_file

from strata.lora_math.errors import StrataError
from strata.lora_math.reading.trigger_words import trigger_words
from strata.nodes.desk import profile
from strata.tests.nodes.helpers import lora_makers, small_models

ROUTES = [
    ("GET", "/strata/lora?name=sd15.safetensors", None),
    ("GET", "/strata/carried?name=sd15.safetensors", None),
    ("GET", "/strata/layout?family=SDXL", None),
    ("POST", "/strata/weights", {"text": "IN*=0.5"}),
    ("POST", "/strata/schedule", {"text": "0@0, 1@0.5"}),
    ("POST", "/strata/noise", {"run": "a", "way": [{"node": "KSampler", "slot": 0, "values": {"steps": 4}}]}),
    ("GET", "/strata/presets", None),
    ("POST", "/strata/presets", {"name": "Crossed", "weights": "IN*=0.3", "family": "SDXL"}),
    ("DELETE", "/strata/presets", {"name": "Kept", "family": "SDXL"}),
    ("POST", "/strata/rows", {"text": "<lora:sd15:1>"}),
    ("POST", "/strata/prompt", {"text": "<lora:sd15:1>"}),
    ("POST", "/strata/tag", {"name": "sd15", "blocks": None}),
    ("POST", "/strata/import", {"text": "<lora:sd15:1>"}),
    ("GET", "/strata/library", None),
    ("POST", "/strata/library/mark", {"name": "sd15.safetensors", "favourite": True}),
    ("POST", "/strata/library/contents", {"go": False}),
    ("GET", "/strata/video?name=sd15.safetensors", None),
    ("GET", "/strata/picture?name=sd15.safetensors", None),
    ("GET", "/strata/sets", None),
    ("POST", "/strata/sets", {"name": "Crossed", "rows": ""}),
    ("DELETE", "/strata/sets", {"name": "Kept"}),
    ("POST", "/strata/inspect", {"sources": [], "width": 400, "theme": "dark"}),
]
ROOT = pathlib.Path(__file__).resolve().parents[2]
JSON = {"Content-Type": "application/json"}
SECRET = "the-secret-word"
LORA = {"lora_unet_input_blocks_1_1_proj_in.diff": torch.zeros(320, 320)}


def ask(server, method, target, body: bytes | dict | None = None, **headers) -> tuple[int, bytes]:
    """The target goes out byte for byte as it is here: nothing tidies the path."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    with contextlib.closing(connection):
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(scope="module")
def secret(server):
    """LoRAs that the routes would describe if they only reached them, everywhere around the loras folder."""
    private = server.base / "private"
    private.mkdir()
    files = [private / "s.safetensors", server.base / "s.safetensors", server.base / "models" / "s.safetensors"]
    files += [server.base / "models" / "checkpoints" / "s.safetensors", server.base / "input" / "s.safetensors"]
    for file in files:
        save_file(LORA, file, {"modelspec.trigger_phrase": SECRET})
    loras = server.base / "models" / "loras"
    for name in ("s.txt", "s.json", "s.bin.bak"):
        (loras / name).write_bytes(files[0].read_bytes())
    yield private
    for file in (*files, *(loras / name for name in ("s.txt", "s.json", "s.bin.bak"))):
        file.unlink(missing_ok=True)
    shutil.rmtree(private)


NAMES = [
    "../s.safetensors",
    "../../s.safetensors",
    "../checkpoints/s.safetensors",
    "../../private/s.safetensors",
    "./../s.safetensors",
    "x/../../s.safetensors",
    "....//s.safetensors",
    "..\\s.safetensors",
    "..\\..\\private\\s.safetensors",
    "C:\\s.safetensors",
    "C:s.safetensors",
    "\\\\localhost\\c$\\s.safetensors",
    "//localhost/s.safetensors",
    "file:///s.safetensors",
    "~/s.safetensors",
    "s.safetensors",
    "s.txt",
    "s.json",
    "s.bin.bak",
    "sd15.safetensors/../../s.safetensors",
    "../s.safetensors\0",
    "../s.safetensors\0.safetensors",
    ".",
    "..",
    "/",
]


def test_the_secret_can_be_read_where_it_may(server, secret):
    """Or the tests below would prove nothing."""
    with contextlib.ExitStack() as cleaning:
        target = server.base / "models" / "loras" / "open.safetensors"
        cleaning.callback(target.unlink)
        target.write_bytes((secret / "s.safetensors").read_bytes())
        assert SECRET.encode() in ask(server, "GET", "/strata/lora?name=open.safetensors")[1]


@pytest.mark.parametrize("encodings", [1, 2, 3])
@pytest.mark.parametrize("name", [*NAMES, "{base}/s.safetensors", "{base}/models/loras/../s.safetensors"])
def test_no_name_leads_out_of_the_loras_folders(server, secret, name, encodings):
    quoted = name = name.replace("{base}", str(server.base))
    for _ in range(encodings):
        quoted = urllib.parse.quote(quoted, safe="")
    status, answer = ask(server, "GET", f"/strata/lora?name={quoted}")
    assert (status, list(json.loads(answer))) in ((200, ["error"]), (400, ["error"]))
    assert SECRET.encode() not in answer
    if encodings == 1:
        status, answer = ask(server, "POST", "/strata/weights", {"text": "", "lora": name}, **JSON)
        assert status == 200
        assert json.loads(answer)["family"] == "SDXL"  # of no LoRA; the secret is one for SD1.5


@pytest.mark.parametrize(
    "path",
    [
        "/strata/../strata/lora?name=../s.safetensors",
        "/strata/lora/../../private/s.safetensors",
        "/strata/%2e%2e/private/s.safetensors",
        "/strata/lora%2f..%2f..%2fprivate%2fs.safetensors",
        "/strata/lora?name=%c0%ae%c0%ae/s.safetensors",
        "/strata/lora?name=%",
        "/strata/lora?name[]=../s.safetensors",
        "/strata/lora",
        "/strata/lora?name=",
        f"/strata/lora?name={'a' * 5000}",
        "/strata/presets?family=../../private/s",
        "/strata/layout?family=../../private/s.safetensors",
    ],
    ids=range(12),
)
def test_no_other_form_of_request_does(server, secret, path):
    status, answer = ask(server, "GET", path)
    assert status in (200, 400, 404)
    assert SECRET.encode() not in answer
    assert status != 200 or "error" in json.loads(answer) or path.startswith("/strata/presets")


@pytest.fixture
def links(server, secret):
    """link(name, target): a symbolic link in the loras folder."""
    made = []

    def link(name: str, target) -> None:
        made.append(server.base / "models" / "loras" / name)
        try:
            made[-1].symlink_to(target)
        except OSError:  # Windows without developer mode cannot be attacked so
            pytest.fail("This system makes no symbolic links.")

    yield link
    for path in made:
        path.unlink()


def test_links_that_lead_out_are_not_followed(server, secret, links):
    links("out.safetensors", secret / "s.safetensors")
    links("folder", secret)
    links("twice.safetensors", "out.safetensors")
    for name in ("out.safetensors", "folder/s.safetensors", "folder\\s.safetensors", "twice.safetensors", "twice"):
        _, answer = ask(server, "GET", f"/strata/lora?name={urllib.parse.quote(name)}")
        assert "extra_model_paths.yaml" in json.loads(answer)["error"], name
        assert SECRET.encode() not in answer


def test_links_to_nowhere_and_in_circles(server, links):
    links("gone.safetensors", "nowhere.safetensors")
    links("self.safetensors", "self.safetensors")
    links("circle", ".")
    for name in ("gone.safetensors", "self.safetensors"):
        assert list(json.loads(ask(server, "GET", f"/strata/lora?name={name}")[1])) == ["error"]
    for name in ("circle/sd15.safetensors", "circle/circle/circle/sd15.safetensors"):
        assert json.loads(ask(server, "GET", f"/strata/lora?name={name}")[1])["family"] == "SD1.5"


def test_a_link_into_a_folder_that_comfyui_was_told_of(lora_folder, tmp_path_factory, monkeypatch):
    import folder_paths
    from utils.extra_config import load_extra_path_config

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(lora_folder.path)], {".safetensors"}))
    store = tmp_path_factory.mktemp("store")
    (store / "here").mkdir()
    save_file(LORA, store / "here" / "x.safetensors", {"modelspec.trigger_phrase": SECRET})
    (lora_folder.path / "x.safetensors").symlink_to(store / "here" / "x.safetensors")
    with pytest.raises(StrataError, match=r"outside of your loras folders.*extra_model_paths\.yaml"):
        profile.profile("x.safetensors")
    (store / "extra_model_paths.yaml").write_text("a1111:\n  base_path: .\n  loras: here\n", encoding="utf-8")
    load_extra_path_config(str(store / "extra_model_paths.yaml"))
    assert profile.profile("x.safetensors").answer["trigger_words"] == [SECRET]


def test_the_loader_follows_a_link_as_comfyui_does(lora_folder, tmp_path_factory):
    from strata.nodes.loader import StrataLoraLoader

    model, store = small_models.sd15(), tmp_path_factory.mktemp("store")
    save_file(lora_makers.full_lora(model), store / "x.safetensors")
    (lora_folder.path / "x.safetensors").symlink_to(store / "x.safetensors")
    assert StrataLoraLoader.execute("x.safetensors", 1.0, 0.0, model=model).result[0].patches


@pytest.mark.parametrize("end", [".txt", ".json", ".civitai.info", ".metadata.json", ".safetensors.rgthree-info.json"])
def test_a_sidecar_is_no_window(tmp_path, end):
    """A text beside a LoRA counts where it lies there, not where a link shows something from elsewhere."""
    contents = json.dumps({"activation text": SECRET, "trainedWords": [SECRET], "civitai": {"trainedWords": [SECRET]}})
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a").write_text(SECRET if end == ".txt" else contents)
    sidecar = tmp_path / f"x{end}"
    sidecar.symlink_to(tmp_path / "private" / "a")
    assert trigger_words(str(tmp_path / "x.safetensors"), {}) == []
    sidecar.unlink()
    sidecar.write_text((tmp_path / "private" / "a").read_text())
    assert trigger_words(str(tmp_path / "x.safetensors"), {}) == [SECRET]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_not_run(server):
    file, marker = server.base / "models" / "loras" / "evil.pt", server.base / "was run"
    file.write_bytes(pickle.dumps({"lora_unet_x.lora_up.weight": Evil(str(marker))}))
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(file.unlink)
        assert "program code" in json.loads(ask(server, "GET", "/strata/lora?name=evil.pt")[1])["error"]
        assert not marker.exists()


@pytest.fixture
def kept(server):
    """A preset that a refused request must not delete."""
    preset = {"name": "Kept", "weights": "IN*=0.3", "family": "SDXL"}
    assert ask(server, "POST", "/strata/presets", preset, **JSON)[0] == 200
    yield
    assert ask(server, "DELETE", "/strata/presets", preset, **JSON)[0] == 200


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://evil.example:{port}"},
        {"Origin": "https://127.0.0.1.evil.example"},
        {"Origin": "http://127.0.0.1:1"},
    ],
    ids=str,
)
def test_another_site_gets_nothing(server, kept, method, path, body, headers):
    headers = {name: value.format(port=server.port) for name, value in headers.items()}
    assert ask(server, method, path, body, **JSON, **headers) == (403, b"")
    names = json.loads(ask(server, "GET", "/strata/presets?family=SDXL")[1])["names"]
    assert "Kept" in names
    assert "Crossed" not in names


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda value: str(value)[:24])
def test_no_other_site_is_invited(server, method, path, body):
    """A browser asks first before it sends JSON to another site: nothing in the answer lets it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        asking = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "content-type"}
        connection.request("OPTIONS", path, headers={"Origin": f"http://127.0.0.1:{server.port}", **asking})
        answer = connection.getresponse()
        assert not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]


@pytest.mark.parametrize("path", sorted({target for _, target, _ in ROUTES}))
def test_other_methods_are_refused(server, path):
    known = {method for method, target, _ in ROUTES if target == path}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - known:
        status, _ = ask(server, method, path, b"{}", **JSON)
        assert status in (404, 405), method


def test_every_route_is_tried_here(server):
    nodes = {f"{method} {target.partition('?')[0]}" for method, target, _ in ROUTES}
    source = (ROOT / "nodes" / "routes.py").read_text()
    registered = re.findall(r'routes\.(get|post|delete)\("([^"]+)"\)', source)
    assert {f"{method.upper()} {path}" for method, path in registered} == nodes


CHANGING = [(method, path) for method, path, body in ROUTES if body is not None]
DEEP = "x"
for _ in range(500):
    DEEP = [DEEP]
ODD = [
    *(None, True, -1, 1e308, 10**4000, "", " ", "\0", "\ud800", "none", "\u0130" * 90, "<lora:" * 9000, "x" * 90_000),
    *([], {}, [None], {"a": "b"}, DEEP),
]


@pytest.mark.parametrize(
    ("method", "path", "body"), [route for route in ROUTES if route[2]], ids=lambda value: str(value)[:24]
)
def test_any_value_of_any_field_is_answered(server, method, path, body):
    """Missing, null, of another type, deep, or of any length: an answer or a refusal, and never an error of the server's own."""
    fields = {*body, "seed", "invert", "about", "favourite", "used", "blocks"}
    tried = [{name: body[name] for name in body if name != left_out} for left_out in body]
    tried += [{**body, name: value} for name in fields for value in ODD]
    for asked in tried:
        status, answer = ask(server, method, path, json.dumps(asked).encode(), **JSON)
        said = str(asked)[:200]
        assert status in (200, 400), said
        assert isinstance(json.loads(answer), dict), said
        assert status == 200 or list(json.loads(answer)) == ["error"], said
        if (
            method == "POST"
            and status == 200
            and "error" not in json.loads(answer)
            and path.endswith(("sets", "presets"))
        ):
            name = {"name": asked["name"], "family": asked.get("family")}
            assert ask(server, "DELETE", path, json.dumps(name).encode(), **JSON)[0] == 200


@pytest.mark.parametrize(
    "question",
    [
        *("start=-1", "start=x", "count=0", "count=99999", "sort=x", "start=" + "9" * 5000),
        *(
            "words=" + "%F0%9F%8C%8A" * 500,
            "folder=..%2F..",
            "fits=x",
            "start=" + "9" * 4000,
            "favourites=2",
            "count=%D9%A1",
        ),
    ],
    ids=lambda text: text[:16],
)
def test_any_question_to_the_library_is_answered(server, question):
    status, answer = ask(server, "GET", f"/strata/library?{question}")
    assert status in (200, 400)
    assert (status == 400) == (list(json.loads(answer)) == ["error"])


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_huge_bodies_are_not_kept(server, method, path):
    """Refused by what they claim to be, and, where they claim nothing, by what has come so far."""
    assert ask(server, method, path, b"{", **JSON, **{"Content-Length": str(10**12)})[0] == 413
    process = psutil.Process(server._process.pid)
    before = process.memory_info().rss
    status = 413
    with contextlib.suppress(ConnectionError):  # the server may hang up before all of it is sent
        status = ask(server, method, path, iter([b" " * (1 << 16)] * 1024), **JSON)[0]
    assert status == 413
    assert process.memory_info().rss - before < 1 << 24  # of the 64 MB


@pytest.mark.parametrize(("method", "path"), CHANGING)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_can_send_is_refused(server, method, path, kind):
    body = {"name": "Formed", "weights": "IN*=0.3", "family": "SDXL", "text": ""}
    assert ask(server, method, path, body, **{"Content-Type": kind})[0] == 415
    assert b"Formed" not in ask(server, "GET", "/strata/presets")[1]


@pytest.mark.parametrize(("method", "path"), CHANGING)
@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_a_body_that_is_not_packed_as_it_says_is_refused(server, method, path, packed):
    status, answer = ask(server, method, path, {"name": "x"}, **JSON, **{"Content-Encoding": packed})
    assert status == 400 and b"Traceback" not in answer


def test_a_preset_is_written_nowhere_else(server):
    before = {path for path in server.base.rglob("*") if path.suffix != ".log"}
    bodies = [{"name": name, "weights": "IN*=0.3", "family": "SDXL"} for name in ("../evil", "C:\\evil", "/tmp/evil")]
    for body in bodies:
        assert ask(server, "POST", "/strata/presets", body, **JSON)[0] == 200
    after = {path for path in server.base.rglob("*") if path.suffix != ".log"}
    assert {path.name for path in after - before} <= {"strata", "block_presets.json", "default"}
    for body in bodies:
        assert ask(server, "DELETE", "/strata/presets", body, **JSON)[0] == 200


def test_answers_are_of_bounded_size(server):
    """Whatever the file holds: thousands of layers of no model, names as long as a page, blocks beyond any depth."""
    tensors = {f"{'x' * 400}{n}.lora_up.weight": torch.zeros(1, 1) for n in range(2000)}
    tensors |= {f"transformer.transformer_blocks.{n}.attn.to_q.lora_A.weight": torch.zeros(1, 1) for n in range(2000)}
    tensors |= {f"transformer.transformer_blocks.{n}.attn.to_q.lora_B.weight": torch.zeros(1, 1) for n in range(2000)}
    file = server.base / "models" / "loras" / "large.safetensors"
    save_file(tensors, file, {f"key {n}": "v" * 5000 for n in range(2000)})
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(file.unlink)
        status, answer = ask(server, "GET", "/strata/lora?name=large.safetensors")
        assert status == 200
        assert list(json.loads(answer)) != ["error"]
        assert len(answer) < 400_000


def test_a_video_beside_a_lora_is_shown_and_nothing_else(server, secret):
    """By the LoRA's name alone; a link beside it that leads out of the folders is none."""
    loras = server.base / "models" / "loras"
    (loras / "wan.mp4").write_bytes(b"film" * 100)
    (secret / "private.mp4").write_bytes(SECRET.encode())
    with contextlib.ExitStack() as cleaning:
        cleaning.callback((loras / "wan.mp4").unlink)
        assert ask(server, "GET", "/strata/video?name=wan.safetensors") == (200, b"film" * 100)
        assert ask(server, "GET", "/strata/video?name=wan.safetensors", Range="bytes=0-3") == (206, b"film")
        rows = json.loads(ask(server, "GET", "/strata/library?words=wan")[1])["rows"]
        assert rows[0]["preview"] == {"video": "wan.safetensors"}
        for name in ("wan.mp4", "wan", "flux.safetensors", "../../private/private.safetensors", "%00", ""):
            assert ask(server, "GET", f"/strata/video?name={name}")[0] in (400, 404), name
        try:
            (loras / "flux.mp4").symlink_to(secret / "private.mp4")
        except OSError:
            return  # this system makes no links
        cleaning.callback((loras / "flux.mp4").unlink)
        assert ask(server, "GET", "/strata/video?name=flux.safetensors")[0] == 404


def test_a_picture_beside_a_name_with_brackets_is_shown_and_nothing_else(server, secret):
    """ComfyUI's own endpoint takes such a name for a pattern, and finds nothing."""
    loras = server.base / "models" / "loras"
    name = "oil, gouache & co [SDXL]"
    with contextlib.ExitStack() as cleaning:
        for path in (loras / f"{name}.safetensors", loras / f"{name}.preview.png"):
            cleaning.callback(path.unlink, missing_ok=True)
        shutil.copy(loras / "wan.safetensors", loras / f"{name}.safetensors")
        (loras / f"{name}.preview.png").write_bytes(b"picture")
        rows = json.loads(ask(server, "GET", "/strata/library?words=gouache")[1])["rows"]
        assert rows[0]["preview"] == {"picture": f"{name}.safetensors"}
        asked = f"/strata/picture?name={urllib.parse.quote(name)}.safetensors"
        assert ask(server, "GET", asked) == (200, b"picture")
        for other in (
            f"{urllib.parse.quote(name)}.preview.png",
            "wan.safetensors",
            "../../private/private.safetensors",
        ):
            assert ask(server, "GET", f"/strata/picture?name={other}")[0] in (400, 404), other
        (loras / f"{name}.preview.png").unlink()
        (secret / "private.png").write_bytes(SECRET.encode())
        try:
            (loras / f"{name}.preview.png").symlink_to(secret / "private.png")
        except OSError:
            return  # this system makes no links
        assert ask(server, "GET", asked)[0] == 404
