"""The one error of this package."""

from ..errors import StrataError


class BlockTextError(StrataError):
    """A block weights text, or a preset file, that cannot be read as written; the message shows what can.

    anywhere: the message where it is not known which model the text is for, None where it is the same one.
    """

    # A message is read on a node, and a part of a text in it may be of any length.
    MAX_LENGTH = 2000

    __module__ = "strata"

    def __init__(self, message: str, anywhere: str | None = None) -> None:
        self.anywhere = anywhere
        super().__init__(message if len(message) <= self.MAX_LENGTH else f"{message[: self.MAX_LENGTH - 3]}...")
