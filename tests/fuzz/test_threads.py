"""Routes, the executor and a person at the disk use the cache at the same time: nobody sees a wrong or half a file, and it stays small."""

import os
import shutil
import threading
import time
from collections import Counter
from random import Random

import pytest
import torch
from broken_bytes import pack

from strata.lora_math.errors import StrataError
from strata.nodes import desk_routes
from strata.nodes.apply import apply_stack
from strata.nodes.comfy import library
from strata.nodes.comfy.library import CACHE, LoraCache
from strata.nodes.desk import profile as profiles
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.stack import StackEntry

NAMES = [f"{i}.safetensors" for i in range(5)] + ["sub/5.safetensors"]
MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
SECONDS = 4.0


def contents(version: int) -> bytes:
    """A LoRA that says in its header what all its numbers are. The same length for every version."""
    number = version / 1024
    tensors = {
        f"{MODULE}.lora_up.weight": torch.full((64, 200), number, dtype=torch.float64),
        f"{MODULE}.lora_down.weight": torch.full((200, 64), number, dtype=torch.float64),
    }
    return pack(tensors, {"version": f"{version:06}"})


def check(lora) -> None:
    adapter, number = lora.contents.entries[0].adapter, int(lora.metadata["version"]) / 1024
    assert bool((adapter.up == number).all()) and bool((adapter.down == number).all()), "two versions in one file"


class Crew:
    """Threads that repeat a task until time is up; the first error that is not a StrataError ends the test."""

    def __init__(self, seconds: float):
        self.end, self.errors, self.done = time.monotonic() + seconds, [], Counter()
        self.threads: list[threading.Thread] = []

    def add(self, task, *arguments) -> None:
        self.threads.append(threading.Thread(target=self._repeat, args=(task, Random(len(self.threads)), *arguments)))

    def run(self) -> Counter:
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join(SECONDS + 30)
            assert not thread.is_alive(), "a thread hangs"
        if self.errors:
            raise self.errors[0]
        return self.done

    def _repeat(self, task, rng, *arguments) -> None:
        while time.monotonic() < self.end and not self.errors:
            try:
                task(rng, *arguments)
                self.done[task.__name__] += 1
            except StrataError:
                self.done[f"{task.__name__} refused"] += 1
            except BaseException as problem:
                self.errors.append(problem)


@pytest.fixture
def folder(loras, monkeypatch):
    """Six files, and room for three of them in the cache of the process."""
    (loras / "sub").mkdir()
    for version, name in enumerate(NAMES):
        (loras / name).write_bytes(contents(version))
    CACHE.clear()
    monkeypatch.setattr(CACHE, "budget", 3 * CACHE.get(NAMES[0]).nbytes)
    yield loras
    CACHE.clear()


def test_everyone_at_once(folder, models):
    model, _ = models["SD1.5"]
    base = {key: weight.clone() for key, weight in model.model.state_dict().items()}
    crew = Crew(SECONDS)

    def get(rng):
        check(CACHE.get(rng.choice(NAMES)))
        assert CACHE.nbytes <= CACHE.budget

    def apply(rng):
        lora = CACHE.get(rng.choice(NAMES))
        applied = apply_stack(model, None, [StackEntry(lora.name, 1.0, 1.0, BlockSpec("M00=0.5"), lora=lora)], "error")
        ((_, patch, *_),) = next(iter(applied.model.patches.values()))
        assert patch.weights[1][0][0] == 0.5

    def profile(rng):
        name = rng.choice(NAMES)
        assert profiles.profile(name).answer["name"] == name

    def read_weights(rng):
        assert desk_routes._read("M00=0.5", None, rng.choice(NAMES), 0, False)["values"]

    def forget(rng):
        time.sleep(0.05)
        CACHE.clear()

    def replace(rng):
        """As careful programs save: written beside, then moved into place."""
        beside = folder / f"{rng.random()}.tmp"
        beside.write_bytes(contents(rng.randrange(1000)))
        os.replace(beside, folder / rng.choice(NAMES[:3]))
        time.sleep(0.03)

    def overwrite(rng):
        """As careless ones do: the old contents are gone first, the new ones come a piece at a time."""
        with open(folder / NAMES[3], "wb", buffering=0) as file:
            whole = contents(rng.randrange(1000))
            for start in range(0, len(whole), 50_000):
                file.write(whole[start : start + 50_000])
                time.sleep(rng.choice((0, 0, 0.002)))
        time.sleep(rng.choice((0.0, 0.05, 0.1)))

    def delete(rng):
        name = rng.choice(NAMES[4:])
        (folder / name).unlink()
        if name.startswith("sub/"):
            shutil.rmtree(folder / "sub")
        time.sleep(0.05)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / name).write_bytes(contents(rng.randrange(1000)))
        time.sleep(0.05)

    for task in (get, get, get, apply, profile, profile, read_weights, forget, replace, overwrite, delete):
        crew.add(task)
    done = crew.run()
    for task in ("get", "apply", "profile", "read_weights", "replace", "overwrite", "delete"):
        assert done[task] >= 5, done
    assert not library.CACHE._reading
    assert all(torch.equal(weight, base[key]) for key, weight in model.model.state_dict().items())


def test_a_file_is_never_read_twice_at_once_even_where_nothing_more_fits(folder, monkeypatch):
    cache, reading, most = LoraCache(budget=1), Counter(), Counter()
    lock, read = threading.Lock(), library.open_lora

    def counted(name, path):
        with lock:
            reading[name] += 1
            most[name] = max(most[name], reading[name])
        try:
            time.sleep(0.005)
            return read(name, path)
        finally:
            with lock:
                reading[name] -= 1

    monkeypatch.setattr(library, "open_lora", counted)
    crew = Crew(1.0)

    def get(rng):
        check(cache.get(rng.choice(NAMES[:2])))

    for _ in range(8):
        crew.add(get)
    assert crew.run()["get"] > 50
    assert most == {NAMES[0]: 1, NAMES[1]: 1}
