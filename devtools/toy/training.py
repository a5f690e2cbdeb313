"""What every training of the toy shares: steps that can be stopped and taken up again, their log and their pictures."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as together
from PIL import Image
from torch import autocast

SAVE_SECONDS = 240
LOG_STEPS = 50


def one_cycle(step: int, steps: int, peak: float, warm: float = 0.08) -> float:
    """The learning rate: a line up to ``peak`` in the first ``warm`` of the steps, then half a cosine down to 1 % of it."""
    done = step / steps
    if done < warm:
        return peak * (done / warm + 1e-3)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))))


def join(folder: Path, rank: int, count: int) -> None:
    """Train in ``count`` processes at once, each with its share of every batch.

    On a machine that has other work too, one process with two threads mostly waits for the slower of them, at every layer; two
    processes wait for one another once in a step.
    """
    together.init_process_group(
        "gloo", init_method=f"file://{(folder / 'meeting').resolve()}", rank=rank, world_size=count
    )


def wait() -> None:
    """Until every process has come here."""
    if together.is_initialized():
        together.barrier()


def first() -> bool:
    return not together.is_initialized() or together.get_rank() == 0


def half_products() -> autocast:
    """While it is open, products are computed in bfloat16."""
    return autocast("cpu", torch.bfloat16)


def own_share(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The rows of a batch that this process computes."""
    if not together.is_initialized():
        return batch
    return tuple(part[together.get_rank() :: together.get_world_size()] for part in batch)


def descend(loss: torch.Tensor, parameters: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> float:
    """One step down the gradient, which is the mean over all processes; the length of it is at most 1."""
    optimiser.zero_grad()
    loss.backward()
    loss = loss.detach()
    if together.is_initialized():
        flat = torch.cat([loss[None], *(parameter.grad.flatten() for parameter in parameters)])
        together.all_reduce(flat)
        loss, *means = (flat / together.get_world_size()).split([1, *(p.numel() for p in parameters)])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad.copy_(mean.view_as(parameter))
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    return loss.item()


class Run:
    """A training of ``steps`` steps, saved every four minutes to ``folder``.

    Args:
        state: name -> what has ``state_dict`` and ``load_state_dict``: the module, its optimiser, its average.
    """

    def __init__(self, folder: Path, steps: int, **state: torch.nn.Module | torch.optim.Optimizer):
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.log = folder / "run.pt", folder / "log.jsonl"
        self.steps, self.state, self.step = steps, state, 0
        if self.file.is_file():
            saved = torch.load(self.file, weights_only=True)
            self.step = saved.pop("step")
            for name, part in state.items():
                part.load_state_dict(saved[name])

    def save(self) -> None:
        partial = self.file.with_suffix(".partial")
        torch.save({"step": self.step, **{name: part.state_dict() for name, part in self.state.items()}}, partial)
        os.replace(partial, self.file)

    def go(self, one: Callable[[int, np.random.Generator], float], seed: int, picture: Callable[[], None]) -> None:
        """Call ``one(step, random numbers of this step)``, which gives the loss, until all steps are done.

        Each step has a generator of its own, so that a training that was stopped goes on as it would have. The log has the seconds
        of a step by the clock and by this process' work: on a machine that has other work too, these are far apart.
        """
        began = saved = time.perf_counter()
        worked = time.process_time()
        start, losses = self.step, []
        while self.step < self.steps:
            losses.append(one(self.step, np.random.default_rng((seed, self.step))))
            self.step += 1
            if not first():
                continue
            if self.step % LOG_STEPS == 0 or self.step == self.steps:
                now = time.perf_counter()
                each = (now - began) / (self.step - start)
                busy = (time.process_time() - worked) / (self.step - start)
                line = {
                    "step": self.step,
                    "loss": round(float(np.mean(losses)), 5),
                    "seconds": round(each, 4),
                    "processor": round(busy, 4),
                }
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                left = (self.steps - self.step) * each / 60
                bar = "#" * round(30 * self.step / self.steps)
                print(f"[{bar:30}] {self.step}/{self.steps}  loss {line['loss']:.4f}  {left:.0f} min left", flush=True)
                losses = []
            if time.perf_counter() - saved > SAVE_SECONDS or self.step == self.steps:
                self.save()
                picture()
                saved = time.perf_counter()


def tiles(rows: list[list[np.ndarray]], path: Path) -> None:
    """Write pictures [height, width, 3], uint8, of one size as a sheet."""
    sheet = Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows]))
    sheet.save(path, quality=90, subsampling=0, optimize=True)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """[n, height, width, 3] of 0..255 -> [n, 3, height, width] of -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(tensor: torch.Tensor) -> np.ndarray:
    """The way back, rounded and clamped."""
    return ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
