"""A real ComfyUI server with this pack in it, on the CPU, in a base folder of its own. For the demo and for tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# What a user's copy holds; used only where the system does not allow symbolic links.
PACK_CONTENTS = (
    "__init__.py",
    "pyproject.toml",
    "nodes",
    "lora_math",
    "web",
    "locales",
    "example_workflows",
)
# Torch's threads sleep while they wait for each other: on a machine that is busy with other things, spinning is
# several times slower.
PROCESS_ENV = {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
FOLDERS = (
    "custom_nodes",
    "input",
    "output",
    "temp",
    "user",
    "models/checkpoints",
    "models/loras",
    "models/embeddings",
)


class ServerError(Exception):
    """The server did not start, died, or gave an answer that it should not give."""


class PromptFailed(ServerError):
    """A prompt was refused or a node raised.

    Attributes:
        node_id: the node at fault, or None if the prompt as a whole was refused.
        exception_type: e.g. ``"ValueError"``; for a refused prompt the error's type, e.g. ``"value_not_in_list"``.
        exception_message: what the node said.
    """

    def __init__(self, node_id: str | None, exception_type: str, exception_message: str) -> None:
        where = f"Node {node_id}: " if node_id else ""
        super().__init__(f"{where}{exception_type}: {exception_message.strip()}")
        self.node_id = node_id
        self.exception_type = exception_type
        self.exception_message = exception_message


class ComfyServer:
    """Starts on ``with``, stops at its end::

        with ComfyServer(comfyui) as server:
            shutil.copy(lora, server.base / "models" / "loras")
            entry = server.run(prompt)
            png = server.image(entry)

    Args:
        comfyui: ComfyUI's own folder; nothing is written there.
        python: the interpreter that runs it (default: this one).
        base: base folder with models/, output/ and so on (default: a temporary one, deleted at the end).
        pack: the pack to install (default: this checkout); None for a ComfyUI without it.
        folder_name: what the pack's folder is called there.
        port: default: any free one.
        arguments: more command line arguments for ComfyUI.
        env: more environment variables.
        timeout: seconds to wait for the first answer.
        say: called with a line of text when something noteworthy happens (default: silence).
    """

    def __init__(
        self,
        comfyui: Path,
        *,
        python: str | Path = sys.executable,
        base: Path | None = None,
        pack: Path | None = ROOT,
        folder_name: str = "comfyui-strata",
        port: int | None = None,
        arguments: Iterable[str] = (),
        env: dict[str, str] | None = None,
        timeout: float = 180.0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.comfyui = Path(comfyui).absolute()
        self.python = str(python)
        self.pack = pack
        self.folder_name = folder_name
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.timeout = timeout
        self._arguments = tuple(arguments)
        self._env = env or {}
        self._say = say or (lambda text: None)
        self._temporary = base is None
        self.base = Path(tempfile.mkdtemp(prefix="strata-server-")) if base is None else Path(base).absolute()
        self.log_path = self.base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)

    # Life

    def __enter__(self) -> ComfyServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            ServerError: the port is taken; or it ended, or did not answer in time, and the message ends with the end
                of its log.
        """
        if _answers(self.port):
            # Or the other program's answers would be taken for this server's.
            raise ServerError(f"Port {self.port} is in use by another program. Choose another port.")
        if self.pack is not None:
            _link_pack(self.pack, self.base / "custom_nodes" / self.folder_name)
        command = [self.python, str(self.comfyui / "main.py"), "--cpu", "--base-directory", str(self.base)]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch"]
        command += ["--disable-api-nodes", "--database-url", "sqlite:///:memory:", *self._arguments]
        # A group of its own, so that stop() reaches what the server itself has started.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        began = time.monotonic()
        with open(self.log_path, "wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.comfyui,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **PROCESS_ENV, **self._env},
                **group,
            )
        while True:
            self._check_alive("did not start")
            with contextlib.suppress(OSError):
                self.get_json("/system_stats", timeout=5)
                break
            if time.monotonic() - began > self.timeout:
                raise ServerError(f"ComfyUI did not answer within {self.timeout:.0f} s.\n\n{self.log_tail()}")
            time.sleep(0.2)
        self._say(f"ComfyUI answers at {self.url} after {time.monotonic() - began:.0f} s")

    def stop(self) -> None:
        """End the server and everything it started: first asked, then forced. The base folder stays."""
        process, self._process = self._process, None
        if process is None:
            return
        for force in (False, True):
            if process.poll() is None:
                _signal_group(process, force)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
                return

    def close(self) -> None:
        """:meth:`stop`, and delete the base folder if it was a temporary one."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.base, ignore_errors=True)

    def wait(self) -> None:
        """Return when the process has ended by itself."""
        if self._process is not None:
            self._process.wait()

    def log(self) -> str:
        """Everything the server has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log().rstrip().splitlines()[-lines:])

    def _check_alive(self, problem: str) -> None:
        if self._process is None:
            raise ServerError("The server is not running.")
        if (code := self._process.poll()) is not None:
            raise ServerError(f"ComfyUI {problem}: it ended with exit code {code}.\n\n{self.log_tail()}")

    # HTTP

    def get(self, path: str, timeout: float = 60) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return answer.read()

    def get_json(self, path: str, timeout: float = 60) -> Any:
        return json.loads(self.get(path, timeout))

    def post_json(self, path: str, data: Any = None, timeout: float = 60) -> Any:
        """POST ``data`` as JSON; returns the decoded answer, or None for an empty one.

        An answer that reports an error raises ``urllib.error.HTTPError``.
        """
        body = json.dumps({} if data is None else data).encode()
        request = urllib.request.Request(
            self.url + path, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """The definition of one node, or of all of them by id.

        Raises:
            ServerError: there is no such node; the message ends with the end of the server's log.
        """
        if node_id is None:
            return self.get_json("/object_info")
        info = self.get_json(f"/object_info/{urllib.parse.quote(node_id)}")
        if node_id not in info:
            raise ServerError(f"This ComfyUI has no node {node_id}.\n\n{self.log_tail()}")
        return info[node_id]

    # Prompts

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt in API format and return its id.

        Raises:
            PromptFailed: ComfyUI refused it.
        """
        try:
            return self.post_json("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise _refusal(json.loads(error.read())) from None

    def wait_for(self, prompt_id: str, timeout: float = 600) -> dict[str, Any]:
        """Wait until a queued prompt is done and return its history entry.

        Raises:
            PromptFailed: a node raised, or the prompt was interrupted.
            ServerError: the server died, or ``timeout`` seconds have passed.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self._check_alive("died while it worked")
            entry = self.get_json(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                _raise_if_failed(entry)
                return entry
            time.sleep(0.05)
        raise ServerError(f"The prompt was not done after {timeout:.0f} s.\n\n{self.log_tail()}")

    def run(self, prompt: dict[str, Any], timeout: float = 600) -> dict[str, Any]:
        """:meth:`queue`, then :meth:`wait_for`."""
        return self.wait_for(self.queue(prompt), timeout)

    def image(self, entry: dict[str, Any], node_id: str | None = None) -> bytes:
        """The first picture in a history entry, or the first one of ``node_id``: the file's bytes.

        Raises:
            ServerError: the prompt made no picture.
        """
        for node, output in entry["outputs"].items():
            if output.get("images") and node_id in (None, node):
                return self.get(f"/view?{urllib.parse.urlencode(output['images'][0])}")
        raise ServerError("The prompt made no picture" + (f" at node {node_id}." if node_id else "."))

    def interrupt(self) -> None:
        """Stop the running prompt, as the cross button does."""
        self.post_json("/interrupt")


def stop_on_sigterm() -> None:
    """Let SIGTERM unwind the program like Ctrl+C does, so that ``with ComfyServer(...)`` stops its server."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _link_pack(pack: Path, link: Path) -> None:
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        shutil.rmtree(link)
    try:
        link.symlink_to(pack, target_is_directory=True)
    except OSError:
        # Windows without developer mode.
        link.mkdir()
        for name in PACK_CONTENTS:
            if (pack / name).is_dir():
                shutil.copytree(pack / name, link / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (pack / name).exists():
                shutil.copy2(pack / name, link / name)


def _signal_group(process: subprocess.Popen[bytes], force: bool) -> None:
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            # /T: with its children.
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True)
        else:
            os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)


def _refusal(answer: dict[str, Any]) -> PromptFailed:
    for node_id, found in (answer.get("node_errors") or {}).items():
        for error in found["errors"]:
            return PromptFailed(node_id, error["type"], f"{error['message']}: {error['details']}")
    error = answer["error"]
    return PromptFailed(None, error["type"], f"{error['message']} {error.get('details', '')}")


def _raise_if_failed(entry: dict[str, Any]) -> None:
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            raise PromptFailed(data["node_id"], data["exception_type"], data["exception_message"])
        if kind == "execution_interrupted":
            raise PromptFailed(data["node_id"], "interrupted", "The prompt was interrupted.")
