"""How the server's life ends when it goes wrong, with small programs in ComfyUI's place, and what a refusal says.

What a server does when all is well is tested wherever one is used.
"""

import os
import socket
import sys
import time

import pytest

from strata.devtools.server import ComfyServer, PromptFailed, ServerError, _raise_if_failed, _refusal

DIES = "print('No module named sunshine'); raise SystemExit(3)"
# Starts a child, says its process id, and never answers.
HANGS = """
import subprocess, sys, time
print("child", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]).pid, flush=True)
time.sleep(100)
"""


def make_program(folder, text):
    (folder / "main.py").write_text(text)
    return folder


def is_alive(pid):
    """Whether a process runs; one that ended and was not collected yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    return True


def test_a_server_that_dies_at_once_shows_why(tmp_path):
    server = ComfyServer(make_program(tmp_path, DIES), timeout=60)
    with pytest.raises(ServerError, match=r"(?s)exit code 3\..*No module named sunshine"), server:
        pass
    assert not server.base.exists()


def test_a_server_that_never_answers_is_ended_with_its_children(tmp_path):
    base = tmp_path / "base"
    server = ComfyServer(make_program(tmp_path, HANGS), base=base, timeout=1.5)
    with pytest.raises(ServerError, match=r"(?s)did not answer within 2 s.*child \d+"), server:
        pass
    child = int(server.log().split()[1])
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)
    # A base folder that was given is kept, and has the pack in it.
    assert (base / "custom_nodes" / "comfyui-strata" / "lora_math").is_dir()


def test_a_given_base_folder_is_used_again(tmp_path):
    for _ in range(2):
        with pytest.raises(ServerError), ComfyServer(make_program(tmp_path, DIES), base=tmp_path / "base"):
            pass
    assert [path.name for path in (tmp_path / "base" / "custom_nodes").iterdir()] == ["comfyui-strata"]


def test_another_program_on_the_port_is_not_taken_for_the_server(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} is in use"), ComfyServer(tmp_path, port=port):
            pass


def test_a_refused_value_names_the_node():
    # As ComfyUI 0.30 answers.
    error = {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "lora_name: 'gone.safetensors' not in []",
        "extra_info": {},
    }
    failed = _refusal(
        {
            "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"},
            "node_errors": {"2": {"errors": [error], "dependent_outputs": ["8"], "class_type": "LoraLoader"}},
        }
    )
    assert (failed.node_id, failed.exception_type) == ("2", "value_not_in_list")
    assert "gone.safetensors" in str(failed)


def test_a_refused_prompt_has_no_node():
    failed = _refusal({"error": {"type": "prompt_no_outputs", "message": "Prompt has no outputs"}, "node_errors": {}})
    assert (failed.node_id, failed.exception_type) == (None, "prompt_no_outputs")


def test_a_raised_error_carries_what_the_node_said():
    data = {"node_id": "2", "exception_type": "ValueError", "exception_message": "It does not fit.\n"}
    with pytest.raises(PromptFailed, match=r"^Node 2: ValueError: It does not fit\.$") as error:
        _raise_if_failed({"status": {"messages": [["execution_start", {}], ["execution_error", data]]}})
    assert error.value.exception_message == "It does not fit.\n"
    _raise_if_failed({"status": {"messages": [["execution_success", {}]]}})
