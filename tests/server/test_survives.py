"""What people do to a running server: queue twice, stop, delete, start anew, open what was saved long ago. The picture stays the same."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import time
import urllib.request

import pytest
from PIL import Image
from saved_workflows import ADDED, MEANT, SAVED, name_of

from strata.devtools.models import CHECKPOINT, LORAS
from strata.devtools.prompts import SD15_WORKFLOW, without_loader
from strata.devtools.server import PromptFailed
from strata.devtools.workflow import nodes_of, to_prompt


def small(prompt: dict, steps: int = 2) -> dict:
    for class_type, values in {"EmptyLatentImage": {"width": 64, "height": 64}, "KSampler": {"steps": steps}}.items():
        for node in nodes_of(prompt, class_type):
            prompt[node]["inputs"].update(values)
    return prompt


@pytest.fixture(scope="module")
def example(server):
    prompt = small(to_prompt(json.loads(SD15_WORKFLOW.read_text(encoding="utf-8")), server.object_info()))
    prompt[nodes_of(prompt, "CheckpointLoaderSimple")[0]]["inputs"]["ckpt_name"] = CHECKPOINT
    return prompt


def lora(example, apply: str, strength: float = 0.8, steps: int = 2) -> dict:
    prompt = small(copy.deepcopy(example), steps)
    (loader,) = nodes_of(prompt, "StrataLoraLoader")
    prompt[loader]["inputs"].update(
        lora_name=next(iter(LORAS)), strength_model=strength, strength_clip=strength, apply=apply
    )
    return prompt


def pixels(server, entry) -> bytes:
    return Image.open(io.BytesIO(server.image(entry))).tobytes()


@pytest.fixture(scope="module")
def expected(server, example):
    """Each picture as it is before anything happens. ComfyUI keeps the results of the last prompt only: a repeated one runs anew."""
    prompts = {"patch": lora(example, "patch"), "live": lora(example, "live"), None: without_loader(example)}
    found = {name: (prompt, pixels(server, server.run(prompt))) for name, prompt in prompts.items()}
    assert len({picture for _, picture in found.values()}) == 3
    return found


def assert_as_before(server, expected, order=("patch", None, "live", None)) -> None:
    for name in order:
        prompt, picture = expected[name]
        assert pixels(server, server.run(prompt)) == picture, f"{name} is not as before"


def until_step(server, steps: int, since: int) -> None:
    """Waits until the sampler's progress bar, in the server's log beyond ``since``, has passed its first step."""
    deadline = time.monotonic() + 60
    while not re.search(rf"[ |][1-9]\d*/{steps} \[", server.log()[since:]):
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.02)


def test_prompts_queued_at_once(server, expected):
    ids = [(server.queue(expected[name][0]), name) for name in ("patch", "live", None, "patch", None, "live")]
    for number, name in ids:
        assert pixels(server, server.wait_for(number)) == expected[name][1], name


@pytest.mark.parametrize("apply", ["patch", "live"])
def test_stopped_in_the_middle_of_sampling(server, example, expected, apply):
    since, steps = len(server.log()), 997
    running = server.queue(lora(example, apply, -0.7, steps))
    until_step(server, steps, since)
    server.interrupt()
    with pytest.raises(PromptFailed, match="interrupted"):
        server.wait_for(running)
    assert_as_before(server, expected, (None, "patch") if apply == "live" else ("live", "patch", None))


def test_the_node_is_deleted_while_it_runs(server, example, expected):
    """The running prompt goes on as it was queued, what is taken out of the queue never runs, and the changed graph is right."""
    since, steps = len(server.log()), 31
    running = server.queue(lora(example, "live", -0.7, steps))
    until_step(server, steps, since)
    deleted = server.queue(lora(example, "patch", 0.3))
    server.post_json("/queue", {"delete": [deleted]})
    changed = server.queue(expected[None][0])
    server.wait_for(running)
    assert pixels(server, server.wait_for(changed)) == expected[None][1]

    since = len(server.log())
    running = server.queue(lora(example, "patch", -0.7, 997))
    until_step(server, 997, since)
    cleared = server.queue(lora(example, "live", 0.3))
    server.post_json("/queue", {"clear": True})
    server.interrupt()
    changed = server.queue(expected["live"][0])
    assert pixels(server, server.wait_for(changed)) == expected["live"][1]
    with pytest.raises(PromptFailed, match="interrupted"):
        server.wait_for(running)
    assert not server.get_json(f"/history/{deleted}")
    assert not server.get_json(f"/history/{cleared}")
    assert_as_before(server, expected, (None,))


@pytest.fixture(scope="module")
def their_files(server):
    """The files that the old workflows name."""
    models, warm = server.base / "models", next(iter(LORAS))
    for name in ("my_lora", "my_style"):
        _link(models / "loras" / warm, models / "loras" / f"{name}.safetensors")
    _link(models / "checkpoints" / CHECKPOINT, models / "checkpoints" / "v1-5-pruned-emaonly-fp16.safetensors")


def _link(source, target) -> None:
    if not target.exists():
        os.link(source, target)


@pytest.mark.parametrize("path", SAVED, ids=name_of)
def test_old_workflows_run(server, their_files, path):
    prompt = to_prompt(json.loads(path.read_text(encoding="utf-8")), server.object_info())
    for class_type, values in MEANT[name_of(path)].items():
        (node,) = nodes_of(prompt, class_type)
        found, values = prompt[node]["inputs"], {**ADDED.get(class_type, {}), **values}
        assert {name: found[name] for name in values} == values
        assert all(isinstance(found[name], list) for name in found.keys() - values.keys()), "a widget without a meaning"
    entry = server.run(small(prompt, 1))
    assert server.image(entry)
    (loader,) = nodes_of(prompt, "StrataLoraLoader")
    assert entry["outputs"][loader]["strata_warned"] == [False]


def test_a_saved_workflow_after_a_restart(server, their_files):
    """Saved in ComfyUI's own user folder as the editor saves it; the server ends and starts in between."""
    address = "/userdata/workflows%2Fmine.json"
    request = urllib.request.Request(server.url + address, data=SAVED[0].read_bytes(), method="POST")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200

    def opened_and_run() -> bytes:
        saved = server.get_json(address)
        return pixels(server, server.run(small(to_prompt(saved, server.object_info()))))

    before = opened_and_run()
    server.stop()
    server.start()
    assert opened_and_run() == before
