"""Errors whose text is shown to the person at the graph."""


class StrataError(ValueError):
    """What is wrong, with which file or node, and what to do about it."""

    # ComfyUI shows an error's class with its module, which for a custom node is a path on somebody's disk.
    __module__ = "strata"


class LoraShapeError(StrataError):
    """Two tensors that belong together do not fit each other."""

    __module__ = "strata"
