"""Errors whose text is shown to the person at the graph."""


class StrataError(ValueError):
    """What is wrong, with which file or node, and what to do about it."""
