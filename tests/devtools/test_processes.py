"""Two commands at once: what they print, their exit codes, which one has the processor, and how they are stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strata.devtools.processes import NICENESS, Running, wait_for
from strata.devtools.server import ROOT

HALVES = """
import sys, time
for _ in range(3):
    for part in ("all of ", "a line\\n"):
        sys.stdout.write(part)
        sys.stdout.flush()
        time.sleep(0.05)
sys.exit(int(sys.argv[1]))
"""


def started(script, *arguments, **how):
    return Running([sys.executable, "-c", script, *arguments], Path.cwd(), os.environ, **how)


def test_lines_come_whole_behind_the_name_of_who_printed_them_and_codes_in_order(capfd):
    codes = wait_for(started(HALVES, "3", name="one"), started(HALVES, "0", name="other", yields=True))
    assert codes == [3, 0]
    assert sorted(capfd.readouterr().out.splitlines()) == ["one: all of a line"] * 3 + ["other: all of a line"] * 3


def test_one_command_prints_as_it_likes(capfd):
    assert wait_for(started(HALVES, "0")) == [0]
    assert capfd.readouterr().out == "all of a line\n" * 3


def test_what_yields_does_so_with_all_that_it_starts(capfd):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    asked = "import os; print(os.getpriority(os.PRIO_PROCESS, 0), flush=True)"
    script = f"import subprocess, sys, time; time.sleep(1); subprocess.run([sys.executable, '-c', {asked!r}])"
    wait_for(started(asked, name="first"), started(script, name="rest", yields=True))
    low = max(own, NICENESS)
    assert sorted(capfd.readouterr().out.splitlines()) == [f"first: {own}", f"rest: {low}"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_all_are_stopped_and_may_tidy_up_first(tmp_path, how):
    tidy = """
import pathlib, signal, sys, time
# What is started in the background by a shell ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
file = pathlib.Path(sys.argv[1])
try:
    file.write_text("runs")
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(8)
finally:
    file.write_text("tidied up")
"""
    files = [tmp_path / "one", tmp_path / "other"]
    parent = f"""
import os, signal, sys, threading, time
from pathlib import Path
from devtools.processes import Running, wait_for
signal.signal(signal.SIGINT, signal.default_int_handler)
def tell_when_it_waits():
    while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        time.sleep(0.01)
    time.sleep(0.5)
    Path({str(tmp_path / "waits")!r}).write_text("runs")
threading.Thread(target=tell_when_it_waits, daemon=True).start()
each = [Running([sys.executable, "-c", {tidy!r}, file], Path.cwd(), os.environ, name=file) for file in sys.argv[1:]]
print(wait_for(*each))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", parent, *map(str, files)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not all(file.exists() and file.read_text() == "runs" for file in (*files, tmp_path / "waits")):
        assert process.poll() is None
        time.sleep(0.02)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does on Ctrl+C
    else:
        process.terminate()
    out, _ = process.communicate(timeout=60)
    assert out.strip() == str([7, 7] if how == signal.SIGTERM else [8, 8])
    assert all(file.read_text() == "tidied up" for file in files)


# Far more than a pipe holds.
TALKS = r"""
import sys
sys.stdout.reconfigure(encoding="utf-8")
for number in range(20_000):
    print(number, "\u2713 \u4f60\u597d")
"""
PRINTS = f"""
import os, sys
from pathlib import Path
from devtools.processes import Running, wait_for
print(wait_for(Running([sys.executable, "-c", {TALKS!r}], Path.cwd(), os.environ, name="one")), file=sys.stderr)
"""


def test_what_the_terminal_has_no_letters_for_stops_nobody():
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", PRINTS], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[0]"
    assert done.stdout.splitlines()[-1] == "one: 19999 ? ??"


def test_who_talks_to_nobody_is_told_instead_of_waiting_for_ever():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS],
        cwd=ROOT,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        **pipes,
    )
    try:
        assert process.stdout.readline() == "one: 0 \u2713 \u4f60\u597d\n"
        process.stdout.close()
        assert "[1]" in process.stderr.read()
    finally:
        process.kill()
        process.wait()
