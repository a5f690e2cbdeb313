"""Commands that ``dev.py`` starts and waits for: one, or two at once of which one has the processor first."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

GRACE_SECONDS = 20
NICENESS = 19  # next to nothing of the processor where the others want all of it


class Running:
    """A started command.

    Args:
        command: the program and its arguments.
        cwd: the folder that it runs in.
        env: its environment variables, all of them.
        name: set for one of several: each line that it prints is then printed when it is whole, behind this name.
        yields: whether it takes only what the others leave of the processor.
    """

    def __init__(
        self, command: list[str], cwd: Path, env: Mapping[str, str], name: str | None = None, yields: bool = False
    ) -> None:
        options = {} if name is None else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        if yields and sys.platform == "win32":
            options["creationflags"] = subprocess.BELOW_NORMAL_PRIORITY_CLASS
        self.process = subprocess.Popen(command, cwd=cwd, env=env, **options)
        if yields and sys.platform != "win32":
            # What it starts itself inherits it. Nobody may make it less.
            lower = max(os.getpriority(os.PRIO_PROCESS, 0), NICENESS)
            os.setpriority(os.PRIO_PROCESS, self.process.pid, lower)
        self._printer = None
        if name is not None:
            self._printer = threading.Thread(target=self._print, args=[name], daemon=True)
            self._printer.start()

    def _print(self, name: str) -> None:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        # Where nobody reads any more, it hears of it as if it had printed by itself: a pipe that nobody empties would stop it for good.
        with contextlib.suppress(OSError, ValueError), self.process.stdout:
            for line in self.process.stdout:
                text = f"{name}: {line.decode(errors='replace').rstrip()}"
                print(text.encode(encoding, "replace").decode(encoding), flush=True)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, after everything that it printed."""
        code = self.process.wait(timeout)
        if self._printer is not None:
            # Whatever it left behind may hold the pipe open.
            self._printer.join(GRACE_SECONDS)
        return code


def wait_for(*all_running: Running) -> list[int]:
    """Their exit codes, when all have ended. SIGTERM is handed on, and after Ctrl+C they are given time to stop what they started."""
    signal.signal(signal.SIGTERM, lambda *_: [running.process.terminate() for running in all_running])
    try:
        return [running.wait() for running in all_running]
    except KeyboardInterrupt:
        # Ctrl+C reaches them by itself.
        return [_stopped(running) for running in all_running]


def _stopped(running: Running) -> int:
    try:
        return running.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        running.process.terminate()
        return running.wait()
