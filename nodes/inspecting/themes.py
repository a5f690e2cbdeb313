"""The colours of what is drawn for people: pictures of LoRAs, and sheets of pictures."""

from __future__ import annotations

from comfy_api.latest import io

from .. import inputs

AUTO = "auto"
# Of a program that runs a node without an editor.
WITHOUT_EDITOR = "dark"
# The colours that a role has. series: of groups of blocks and of LoRAs, told apart by lightness too.
THEMES: dict[str, dict[str, str]] = {
    "dark": {
        "back": "#1b1c20",
        "panel": "#26282e",
        "text": "#eceef2",
        "dim": "#a3a8b3",
        "faint": "#3a3d45",
        "accent": "#5aa9ff",
        "warn": "#f2b134",
        "bad": "#ff6b6b",
        "reinforce": "#ff8a5c",
        "cancel": "#5aa9ff",
        "collide": "#f2b134",
        "apart": "#7d838f",
        "series0": "#5aa9ff",
        "series1": "#4fd1a5",
        "series2": "#f2b134",
        "series3": "#d98cff",
        "series4": "#ff8a5c",
        "series5": "#a3a8b3",
    },
    "light": {
        "back": "#ffffff",
        "panel": "#f1f3f6",
        "text": "#1d2127",
        "dim": "#5b6370",
        "faint": "#d6dae1",
        "accent": "#1769c9",
        "warn": "#a86700",
        "bad": "#c62828",
        "reinforce": "#d2501d",
        "cancel": "#1769c9",
        "collide": "#a86700",
        "apart": "#8b929e",
        "series0": "#1769c9",
        "series1": "#138a63",
        "series2": "#b87503",
        "series3": "#8b45c4",
        "series4": "#d2501d",
        "series5": "#68707d",
    },
}


def theme_input(what: str, **how) -> io.Combo.Input:
    """``theme`` of a node. what: whose colours. how: more of the input, e.g. ``advanced``."""
    tooltip = f"The colours of {what}. {AUTO}: as the editor is; {WITHOUT_EDITOR} without one."
    return io.Combo.Input("theme", options=[AUTO, *THEMES], default=AUTO, tooltip=tooltip, **how)


def read_theme(value) -> str:
    """The theme that is meant. The page sends what its editor looks like; a program that sends ``auto`` has none.

    Raises StrataError.
    """
    found = inputs.choice(value, "theme", (AUTO, *THEMES))
    return WITHOUT_EDITOR if found == AUTO else found
