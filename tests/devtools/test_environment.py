"""Finding ComfyUI and Python, the cache folder, the lock and the stamp. Nothing is installed and nothing downloaded."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from strata.devtools import cache, environment, install
from strata.devtools.install import SetupError


def make_comfyui(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (folder / name).touch()
    return folder


class TestFindComfyUI:
    def test_around_the_pack(self, tmp_path):
        comfyui = make_comfyui(tmp_path / "ComfyUI")
        pack = comfyui / "custom_nodes" / "comfyui-strata"
        pack.mkdir(parents=True)
        assert environment.find_comfyui(env={}, root=pack) == comfyui

    def test_a_base_folder_without_comfyui_is_not_one(self, tmp_path):
        pack = tmp_path / "custom_nodes" / "comfyui-strata"
        pack.mkdir(parents=True)
        assert environment.find_comfyui(env={}, root=pack) is None

    def test_a_clone_elsewhere_finds_none(self, tmp_path):
        pack = make_comfyui(tmp_path) / "comfyui-strata"
        pack.mkdir()
        assert environment.find_comfyui(env={}, root=pack) is None

    def test_the_option_wins_over_the_variable_and_that_over_the_surroundings(self, tmp_path):
        around, variable, option = (make_comfyui(tmp_path / name) for name in ("around", "variable", "option"))
        pack = around / "custom_nodes" / "comfyui-strata"
        pack.mkdir(parents=True)
        env = {"COMFYUI_PATH": str(variable)}
        assert environment.find_comfyui(str(option), env, pack) == option
        assert environment.find_comfyui(None, env, pack) == variable
        assert environment.find_comfyui(None, {"COMFYUI_PATH": ""}, pack) == around

    @pytest.mark.parametrize(("option", "variable"), [("x", None), (None, "x")])
    def test_a_named_folder_that_is_not_comfyui_is_an_error(self, tmp_path, option, variable):
        named = str(tmp_path / "nothing")
        env = {"COMFYUI_PATH": named} if variable else {}
        with pytest.raises(SetupError, match="--comfyui names" if option else "COMFYUI_PATH names") as error:
            environment.find_comfyui(named if option else None, env, tmp_path)
        assert named in str(error.value)


class TestFindPython:
    @pytest.mark.parametrize("name", [".venv", "venv"])
    def test_its_own_virtual_environment(self, tmp_path, name):
        comfyui = make_comfyui(tmp_path / "ComfyUI")
        python = install.venv_python(comfyui / name)
        python.parent.mkdir(parents=True)
        python.touch()
        assert environment.find_python(comfyui) == python

    def test_the_portable_build(self, tmp_path):
        comfyui = make_comfyui(tmp_path / "ComfyUI")
        python = tmp_path / "python_embeded" / "python.exe"
        python.parent.mkdir()
        python.touch()
        assert environment.find_python(comfyui) == python

    def test_else_the_running_one_which_has_torch(self, tmp_path):
        assert environment.find_python(make_comfyui(tmp_path)) == Path(sys.executable)


class TestCacheRoot:
    HOME = Path("/home/me").absolute()

    @pytest.mark.parametrize(
        ("platform", "env", "expected"),
        [
            ("linux", {}, HOME / ".cache" / "comfyui-strata"),
            (
                "linux",
                {"XDG_CACHE_HOME": os.path.abspath("/big")},
                Path("/big").absolute() / "comfyui-strata",
            ),
            ("linux", {"XDG_CACHE_HOME": "relative"}, HOME / ".cache" / "comfyui-strata"),
            ("darwin", {"XDG_CACHE_HOME": "/big"}, HOME / "Library" / "Caches" / "comfyui-strata"),
            ("win32", {"LOCALAPPDATA": "D:/Local"}, Path("D:/Local") / "comfyui-strata"),
            ("win32", {}, HOME / "AppData" / "Local" / "comfyui-strata"),
        ],
    )
    def test_follows_the_platform(self, platform, env, expected):
        assert cache.cache_root(platform, env, self.HOME) == expected


class TestStamp:
    def test_only_a_finished_folder_for_the_same_key_is_ready(self, tmp_path):
        assert not cache.is_ready(tmp_path / "missing", "k")
        assert not cache.is_ready(tmp_path, "k")
        cache.mark_ready(tmp_path, "k")
        assert cache.is_ready(tmp_path, "k")
        assert not cache.is_ready(tmp_path, "other")
        assert [path.name for path in tmp_path.iterdir()] == [cache.STAMP]

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"k"'])
    def test_a_damaged_stamp_is_not_ready(self, tmp_path, text):
        (tmp_path / cache.STAMP).write_text(text)
        assert not cache.is_ready(tmp_path, "k")


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from devtools.cache import lock
from pathlib import Path
with lock(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


class TestLock:
    def test_one_at_a_time(self, tmp_path):
        inside, most, waited = 0, 0, []

        def work():
            nonlocal inside, most
            with cache.lock(tmp_path / "l", lambda: waited.append(1)):
                inside += 1
                most = max(most, inside)
                time.sleep(0.05)
                inside -= 1

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert (most, inside) == (1, 0)
        assert 1 <= len(waited) <= 2

    def test_a_killed_holder_blocks_nobody(self, tmp_path):
        path = tmp_path / "l"
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(environment.ROOT), str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout.readline() == "held\n"
            waited = threading.Event()
            threading.Thread(target=lambda: (waited.wait(30), holder.send_signal(signal.SIGTERM))).start()
            with cache.lock(path, waited.set):
                assert waited.is_set()
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()


class TestPins:
    def test_any_changed_pin_is_another_environment(self, tmp_path, monkeypatch):
        hashes = {install.pins_hash()}
        assert hashes == {install.pins_hash()}
        requirements = tmp_path / "requirements.txt"
        for name, value in [
            ("SDIST_SHA256", "0" * 64),
            ("TORCH", ("torch==2.12.0",)),
            ("TEST_REQUIREMENTS", requirements),
            ("CONSTRAINTS", requirements),
        ]:
            requirements.write_text("pytest==1.0\n")
            with monkeypatch.context() as patch:
                patch.setattr(install, name, value)
                hashes.add(install.pins_hash())
        assert len(hashes) == 5

    def test_everything_the_tests_need_is_pinned(self):
        for path in (install.TEST_REQUIREMENTS, install.CONSTRAINTS):
            pins = environment.pinned(path)
            assert pins and all(pins.values())
        assert environment.pinned(install.TEST_REQUIREMENTS)["lycoris-lora"] == "4.1.3"

    @pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 14)])
    def test_another_python_is_refused_in_words(self, version):
        with pytest.raises(SetupError, match=rf"Python 3.11 to 3.13 is needed here, and this is 3.{version[1]}\."):
            install.check_python(version)

    def test_the_supported_ones_are_not(self):
        for version in [(3, 11), (3, 12), (3, 13)]:
            install.check_python(version)


def make_archive(path: Path, members: list[tuple[str, bytes | str]]) -> Path:
    """A .tar.gz of files (bytes) and symbolic links (str)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


class TestExtract:
    def test_takes_the_folder_and_nothing_beside_it(self, tmp_path):
        members = [("p/vendor/C/main.py", b"x"), ("p/vendor/C/comfy/a.py", b"y"), ("p/setup.py", b"z")]
        members += [("p/vendor/Cx/no.py", b"z"), ("p/vendor/C/link", "/etc/passwd")]
        install.extract_folder(make_archive(tmp_path / "a.tar.gz", members), "p/vendor/C", tmp_path / "out")
        files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*"))
        assert files == ["comfy", "comfy/a.py", "main.py"]
        assert (tmp_path / "out" / "comfy" / "a.py").read_bytes() == b"y"

    def test_a_path_that_leaves_the_folder_is_refused(self, tmp_path):
        archive = make_archive(tmp_path / "a.tar.gz", [("p/C/../../../escaped.py", b"x")])
        with pytest.raises(SetupError, match="unsafe path"):
            install.extract_folder(archive, "p/C", tmp_path / "deep" / "out")
        assert not list(tmp_path.rglob("escaped.py"))

    def test_an_archive_without_it_is_an_error(self, tmp_path):
        archive = make_archive(tmp_path / "a.tar.gz", [("q/main.py", b"x")])
        with pytest.raises(SetupError, match="no folder p/C"):
            install.extract_folder(archive, "p/C", tmp_path / "out")


def test_a_failed_command_shows_the_end_of_its_own_output(tmp_path):
    log = tmp_path / "setup.log"
    log.write_text("older output\n")
    with pytest.raises(SetupError, match="Could not frobnicate") as error:
        install.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], log, "frobnicate")
    assert "the reason" in str(error.value)
    assert "older output" not in str(error.value)
