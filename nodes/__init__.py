"""The nodes of the pack, one file per family; a class here holds a schema and a short execute()."""

from comfy_api.latest import ComfyExtension, io

from .block_weights import StrataLoraBlockWeights
from .loader import StrataLoraLoader
from .prompt import StrataLoraFromPrompt


class StrataExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StrataLoraLoader, StrataLoraBlockWeights, StrataLoraFromPrompt]


async def comfy_entrypoint() -> StrataExtension:
    return StrataExtension()
