"""ComfyUI as it would be started on this machine, without its server."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import logging
import sys
from unittest import mock

# Gigabytes that "little" loading may use of the GPU: less than the models are.
LITTLE = {"SDXL": 3.0, "FLUX": 9.0}


def start(case: dict) -> None:
    """Imports ComfyUI with the settings of a case."""
    with contextlib.redirect_stdout(io.StringIO()):
        from comfy.cli_args import args

        args.cpu = case["device"] == "cpu"
        if case["loading"] == "little":
            import torch

            args.reserve_vram = max(torch.cuda.mem_get_info()[1] / 2**30 - LITTLE[case["model"]], 0.5)
            args.async_offload = 2
        if case["loading"] == "dynamic":
            import comfy_aimdo.control

            comfy_aimdo.control.init()
        if importlib.util.find_spec("av") is None:
            sys.meta_path.append(_NoVideos())
        import comfy.model_management
        import comfy.sample  # noqa: F401

        if case["loading"] == "dynamic":
            _dynamic()
    logging.getLogger().setLevel(logging.ERROR)
    import torch

    torch.set_grad_enabled(False)


class _NoVideos(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """ComfyUI imports PyAV, forty megabytes that read videos; nothing here does."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "av" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module) -> None:
        module.__getattr__ = lambda name: mock.MagicMock()


def _dynamic() -> None:
    """As ComfyUI's main.py does."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.control

    devices = [device.index for device in comfy.model_management.get_all_torch_devices()]
    try:
        ready = comfy_aimdo.control.init_devices((index, 0) for index in devices)
    except TypeError:
        ready = comfy_aimdo.control.init_devices(devices)
    if not ready:
        raise RuntimeError("comfy-aimdo does not work on this machine")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
