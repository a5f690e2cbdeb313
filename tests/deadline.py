"""A limit for inputs that must be read in one pass over them: what is quadratic there would take minutes or hours, not seconds."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 20  # a hundred times what any of the inputs takes


@contextmanager
def deadline(seconds: int = SECONDS) -> Iterator[None]:
    """Raises TimeoutError in the middle of what takes longer, regular expressions included. In the main thread only."""

    def stop(*_):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
