"""The nodes of the pack, one file per family; a class here holds a schema and a short execute()."""

from comfy_api.latest import ComfyExtension, io

from . import routes
from .block_weights import StrataLoraBlockWeights
from .comfy.web_server import web_server
from .extract import StrataLoraExtract
from .image_grid import StrataImageGrid
from .inspect_lora import StrataLoraInspect
from .loader import StrataLoraLoader
from .lora_stack import StrataLoraStack
from .lora_sweep import StrataSweep
from .prompt import StrataLoraFromPrompt
from .save import StrataLoraSave
from .schedule import StrataLoraSchedule
from .sweep_values import StrataSweepValues


class StrataExtension(ComfyExtension):
    async def on_load(self) -> None:
        server = web_server()
        if server is not None:
            routes.register(server)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            StrataLoraLoader,
            StrataLoraStack,
            StrataLoraBlockWeights,
            StrataLoraSchedule,
            StrataLoraFromPrompt,
            StrataLoraSave,
            StrataLoraExtract,
            StrataLoraInspect,
            StrataSweep,
            StrataSweepValues,
            StrataImageGrid,
        ]


async def comfy_entrypoint() -> StrataExtension:
    return StrataExtension()
