"""Work on the LoRA files of this machine that nobody waits for: at most one thread of each kind."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """The thread of one kind of work, which ends with it. Whoever starts one does so under a lock of their own."""

    def __init__(self, name: str):
        self.name = f"strata-{name}"
        self._thread: threading.Thread | None = None

    @property
    def begun(self) -> bool:
        """Whether there was ever such work, since it was forgotten."""
        return self._thread is not None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, run: Callable[..., None], *given) -> None:
        # A server that ends does not wait for it.
        self._thread = threading.Thread(target=run, args=given, name=self.name, daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """Said by the work itself, at its very end: what is asked for from here on is started anew."""
        self._thread = None

    def wait(self, timeout: float) -> bool:
        """Until what is under way has ended, for tests and benchmarks; False when it has not by then."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()
