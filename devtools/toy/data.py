"""The drawings: rendered from an npm package of emoji, cached as one array."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = "@iconify-json/fluent-emoji-flat@1.2.6"  # MIT, Microsoft Corporation
RENDERER = "resvg-py==0.5.0"  # MPL-2.0
SIZE = 128
SUBJECT = "robot"  # the one that the base never sees
SHEET, COLUMNS = Path(__file__).with_name("drawings.png"), 16
CAPTIONS = Path(__file__).with_name("captions.txt")
# Emoji in more than one skin or with a word on them: the autoencoder would learn each of them many times over.
LEFT_OUT = ("people", "flags")


def captions() -> dict[str, str]:
    """Caption -> the drawing's name in the package, in the order of ``captions.txt``."""
    found = {}
    for line in CAPTIONS.read_text("utf-8").split("\n"):
        name, _, caption = (part.strip() for part in line.partition("="))
        if name:
            found[caption or name.replace("-", " ")] = name
    return found


def download(into: Path) -> dict:
    """The package's ``icons.json`` with the names of each category under ``categories``; npm fetches it once."""
    into.mkdir(parents=True, exist_ok=True)
    packed = sorted(into.glob("*.tgz"))
    if not packed:
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=into, check=True, stdout=subprocess.DEVNULL)
        packed = sorted(into.glob("*.tgz"))
    with tarfile.open(packed[0]) as archive:
        icons, about = (json.load(archive.extractfile(f"package/{name}.json")) for name in ("icons", "metadata"))
    return {**icons, **about}


def renderer(work: Path):
    """The module that renders SVG; pip installs it beside the drawings if this Python has not got it."""
    try:
        return importlib.import_module("resvg_py")
    except ImportError:
        folder = work / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, RENDERER]
        subprocess.run(command, check=True)
        sys.path.append(str(folder))
        return importlib.import_module("resvg_py")


def render(resvg_py, body: str, side: int) -> np.ndarray:
    """A drawing in a square of ``side`` units, on white: [SIZE, SIZE, 3], uint8."""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">{body}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    paper = Image.new("RGBA", drawing.size, "white")
    return np.asarray(Image.alpha_composite(paper, drawing).convert("RGB"))


def drawings(work: Path) -> dict[str, np.ndarray]:
    """Name -> drawing of everything that the training uses; rendered at the first call."""
    cache = work / "drawings.npz"
    if not cache.is_file():
        package = download(work / "npm")
        names = {
            name
            for category, members in package["categories"].items()
            if not category.lower().startswith(LEFT_OUT)
            for name in members
        }
        icons, resvg_py = package["icons"], renderer(work)
        pictures = {
            name: render(resvg_py, icons[name]["body"], package["height"]) for name in sorted(names & icons.keys())
        }
        partial = cache.with_suffix(".partial.npz")
        np.savez(partial, names=list(pictures), pictures=np.stack(list(pictures.values())))
        partial.replace(cache)
    with np.load(cache) as saved:
        return dict(zip(saved["names"].tolist(), saved["pictures"], strict=True))


def write_sheet(work: Path) -> None:
    """The captioned drawings and the subject as one PNG, so that measuring needs neither the package nor a renderer."""
    known = drawings(work)
    tiles = [known[name] for name in (*captions().values(), SUBJECT)]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[first : first + COLUMNS], 1) for first in range(0, len(tiles), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(SHEET, optimize=True)


def originals() -> dict[str, np.ndarray]:
    """Caption -> drawing, the subject last, as :func:`write_sheet` wrote them."""
    sheet = np.asarray(Image.open(SHEET).convert("RGB"))
    grid = sheet.reshape(-1, SIZE, COLUMNS, SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)
    return dict(zip((*captions(), SUBJECT), grid, strict=False))
