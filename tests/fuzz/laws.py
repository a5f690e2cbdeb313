"""What must hold for every file: a result or a refusal that names the file and a reason, in bounded time and memory, no code run, no
NaN in a patched model, and the base weights back bit for bit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from broken_pickles import MARK
from cases import Case

from strata.lora_math.errors import StrataError
from strata.nodes.apply import apply_stack
from strata.nodes.comfy.library import CACHE
from strata.nodes.desk.profile import profile
from strata.nodes.stack import StackEntry

SECONDS = 5.0  # of computing
# Beside twice the file's size: the 300 000 values that a header may have, 200 bytes each as Python keeps them, or a list of tags or a
# sidecar of 3 MB at twenty times its size.
ROOM = 64 << 20
LONGEST = 2000  # letters of an error that a person is to read on a node


class Broken(AssertionError):
    """A law was broken."""


class Bench:
    """Models to apply files to, and their weights as they were. models: family -> (MODEL, CLIP or None)."""

    def __init__(self, models: dict[str, tuple]):
        self.models = models
        self.base = {family: _copied(model.model) for family, (model, _) in models.items()}
        self.texts = {family: _copied(clip.cond_stage_model) for family, (_, clip) in models.items() if clip}

    def run(self, case: Case, folder: Path) -> str:
        """Writes the case into an empty folder of loras and holds it against every law. Returns what became of it; raises Broken."""
        for name, content in case.files.items():
            (folder / name).write_bytes(content)
        folder_paths.filename_list_cache.pop("loras", None)
        CACHE.clear()
        start = time.process_time()
        with little_memory(2 * len(case.files[case.name])):
            lora, outcome = self._read(case)
        if lora is not None:
            outcome = self._apply(case, lora)
        require(time.process_time() - start < SECONDS, f"it took {time.process_time() - start:.1f} s")
        require(not Path(MARK).exists(), "code in the file was run")
        return outcome

    def _read(self, case: Case):
        try:
            lora = CACHE.get(case.name)  # once, as the pack does: a second copy would be the test's own memory
            answer = profile(case.name).answer
        except StrataError as problem:
            check_refusal(str(problem), case.name)
            return None, "refused"
        json.dumps(answer, allow_nan=False, ensure_ascii=False).encode("utf-8")
        return lora, "read"

    def _apply(self, case: Case, lora) -> str:
        model, clip = self.models[case.family]
        entry = StackEntry(lora.name, *case.strengths, lora=lora)
        try:
            applied = apply_stack(model, clip, [entry], "error", apply=case.apply)
            outcome = "applied"
        except StrataError as problem:
            check_refusal(str(problem), case.name)
            applied = apply_stack(model, clip, [entry], "warn", apply=case.apply)
            require(applied.warned, "an error that is no warning")
            outcome = "applied in part" if applied.model is not model or applied.clip is not clip else "misfit"
        if case.twice:
            other = StackEntry(lora.name, *case.strengths[::-1], lora=lora)
            applied = apply_stack(applied.model, applied.clip, [other], "warn")
        for text in (applied.report, applied.verdict, applied.trigger_words):
            text.encode("utf-8")
        if applied.model is not model:
            check_patching(applied.model, self.base[case.family], case.name)
        if clip is not None and applied.clip is not clip:
            check_patching(applied.clip.patcher, self.texts[case.family], case.name)
        return outcome


def _copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: weight.clone() for key, weight in module.state_dict().items()}


def check_refusal(text: str, name: str) -> None:
    shown = name.encode("utf-8", "replace").decode()
    require(shown in text, f"the refusal does not name the file: {text[:300]}")
    require(len(text) > len(shown) + 20, f"the refusal gives no reason: {text}")
    require(len(text) < LONGEST, f"the refusal is {len(text)} letters long: {text[:300]}")
    text.encode("utf-8")


def check_patching(patcher, base: dict[str, torch.Tensor], name: str) -> None:
    """Patches, or refuses to, looks for a NaN or an infinity, takes the patches back and compares with ``base``."""
    bad: list[str] = []
    try:
        patcher.patch_model()
        bad = [key for key in patcher.patches if not comfy.utils.get_attr(patcher.model, key).isfinite().all()]
    except StrataError as problem:
        check_refusal(str(problem), name)
    finally:
        patcher.unpatch_model()
    require(not bad, f"NaN or infinity in {bad[:3]}")
    for key, weight in patcher.model.state_dict().items():
        require(weight.dtype == base[key].dtype and torch.equal(weight, base[key]), f"{key} did not come back")


@contextmanager
def little_memory(allowed: int) -> Iterator[None]:
    """Raises Broken when the process grows by more than this, and ROOM, at any moment in between (Linux only)."""
    before = _resident("VmHWM") if _reset_peak() else None
    yield
    if before is not None:
        grown = _resident("VmHWM") - before
        require(grown <= allowed + ROOM, f"it took {grown / 1e6:.0f} MB for a file of {allowed / 2e6:.1f} MB")


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(name: str) -> int:
    """Bytes of this process in memory, now ("VmRSS") or at most since the last reset ("VmHWM")."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise OSError(f"/proc/self/status has no {name}")


def require(holds: bool, text: str) -> None:
    if not holds:
        raise Broken(text)
