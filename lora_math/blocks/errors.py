"""The one error of this package."""

from ..errors import StrataError


class BlockTextError(StrataError):
    """A block weights text, or a preset file, that cannot be read as written; the message shows what can."""

    __module__ = "strata"
