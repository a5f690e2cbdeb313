"""The nodes of the pack, one file per family; a class here holds a schema and a short execute()."""

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from . import routes
from .block_weights import StrataLoraBlockWeights
from .loader import StrataLoraLoader
from .prompt import StrataLoraFromPrompt


class StrataExtension(ComfyExtension):
    async def on_load(self) -> None:
        routes.register(PromptServer.instance)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StrataLoraLoader, StrataLoraBlockWeights, StrataLoraFromPrompt]


async def comfy_entrypoint() -> StrataExtension:
    return StrataExtension()
