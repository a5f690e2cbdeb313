"""Stacks that a person keeps under a name: one file in the user directory, for every node that takes rows."""

from __future__ import annotations

from ...lora_math.errors import StrataError
from ..comfy import user_files

FILE = "lora_sets.json"
MAX_SETS, MAX_NAME, MAX_TEXT = 1000, 100, 100_000


def read_sets() -> list[dict]:
    """``[{"name", "rows"}]`` by name."""
    data = user_files.read_json(FILE)
    sets = data if isinstance(data, dict) else {}
    found = [{"name": name, "rows": rows} for name, rows in sets.items() if isinstance(rows, str)]
    return sorted(found, key=lambda one: one["name"].lower())


def save_set(name: str, rows: str) -> None:
    """Adds a set or replaces the one of that name. Raises StrataError."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or any(ord(letter) < 32 for letter in name):
        raise StrataError(f"A set needs a name of at most {MAX_NAME} letters.")
    if len(rows) > MAX_TEXT:
        raise StrataError(f"A set holds at most {MAX_TEXT} letters.")

    def change(data: dict) -> None:
        if name not in data and len(data) >= MAX_SETS:
            raise StrataError(f"There are {MAX_SETS} sets already: delete one first.")
        data[name] = rows

    _change(change)


def delete_set(name: str) -> None:
    """Raises StrataError where there is none of that name."""

    def change(data: dict) -> None:
        if data.pop(name, None) is None:
            raise StrataError(f"There is no set '{name[:MAX_NAME]}'.")

    _change(change)


def _change(change) -> None:
    try:
        user_files.change_json(FILE, change)
    except OSError as problem:
        raise StrataError(f"{FILE} cannot be written: {problem.strerror or problem}.") from None
