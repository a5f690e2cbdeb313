"""A thousand moved sliders: no memory, no object, no hook, no patch and no cache entry more than after the first hundreds."""

from __future__ import annotations

import torch

from strata.benchmarks.cycles import Moves, State, changed, weights
from strata.nodes.comfy.library import CACHE
from strata.nodes.desk import profile
from strata.nodes.fitting import block_spec as block_weights
from strata.tests.nodes.helpers import lora_makers, sampling

FAMILY = "SD3"
MOVES, WARM = 1000, 300


def test_a_thousand_moves(lora_folder, monkeypatch):
    model = sampling.MODELS[FAMILY]()
    run = lambda model, callback=None: sampling.sample(model, FAMILY, steps=1, cfg=1.0, callback=callback)  # noqa: E731
    before, base = weights(model), run(model)
    make = lambda seed: lora_makers.full_lora(model, prefix="diffusion_model.", seed=seed)  # noqa: E731
    files = [lora_folder.save(f"{seed}.safetensors", make(seed)) for seed in range(4)]
    CACHE.clear()
    size = CACHE.get(files[0]).nbytes
    monkeypatch.setattr(CACHE, "budget", 3 * size)  # files are dropped and read anew all the time
    moves = Moves(model, files, run)
    for number in range(MOVES):
        moves.make()
        if number % 10 == 0:
            profile.profile(files[number // 10 % 4])  # what the browser asks for
        if number == WARM:
            warm = State.of(model)
    end = State.of(model)
    assert min(moves.made[kind] for kind in ("patch", "live", "interrupted")) > MOVES / 5
    assert CACHE.nbytes <= 3 * size
    assert end.lists == {**end.lists, "hooks": 0, "running": 0, "patches": 0, "models": 0, "files being read": 0}
    assert end.lists == warm.lists
    assert len(profile._kept) <= profile.KEPT
    assert len(block_weights._layouts) < 20
    # What each move left behind would be there 700 times: 250 MB of factors, 700 objects.
    assert end.rss - warm.rss < 16 << 20
    assert not {kind: more for kind, more in end.grown(warm).items() if more > MOVES / 10}
    assert torch.equal(run(model), base)
    assert not changed(model, before)
