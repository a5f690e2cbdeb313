"""What the numbers were measured on, and how: CPU seconds of one thread, medians, both sides in turn."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch


class Times(NamedTuple):
    """Seconds of one candidate, one for each round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


class Ratio(NamedTuple):
    """A quotient taken within each round, so that what slows a round slows both: its median, and its smallest and largest value."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 3 if self.median < 2 else 1
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def ratio(a: Times, b: Times) -> Ratio:
    found = [x / y for x, y in zip(a.rounds, b.rounds, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def alternate(rounds: int, **candidates: Callable[[], object]) -> dict[str, Times]:
    """Runs all candidates in turn, ``rounds`` times after a first time that does not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            gc.collect()
            seconds = clock(run)
            if number:
                times[name].append(seconds)
    return {name: Times(rounds) for name, rounds in times.items()}


def clock(run: Callable[[], object]) -> float:
    """Seconds that ``run`` took."""
    start = now()
    run()
    return now() - start


def now() -> float:
    """CPU seconds of this process: with one thread, the time on a machine with nothing else to do. With more, seconds by the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes of tensors that ``run`` held at one time, at most, beyond those from before: torch's own account of its allocations."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held, default=0)


def describe() -> str:
    """The machine in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    threads = torch.get_num_threads()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{model}, {os.cpu_count()} cores{load}; {threads} thread{'s'[: threads > 1]}; torch {torch.__version__}; "
        f"Python {platform.python_version()}; {platform.system()}"
    )


class Held:
    """The most that the GPU, or on a CPU the process, held while it was entered, beyond what it held before."""

    def __init__(self, device: torch.device | None):
        self.device, self.found = device, {}

    def __enter__(self) -> Held:
        if self.device is None:
            # What the allocator keeps of earlier runs would hide what this one takes; then Linux forgets the process's peak.
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status("VmRSS")
        else:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *_) -> None:
        if self.device is None:
            self.found["memory of the process"] = _status("VmHWM") - self.before
        else:
            self.found["memory of the GPU"] = torch.cuda.max_memory_allocated(self.device) - self.before


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{name}:")[1].split()[0])
