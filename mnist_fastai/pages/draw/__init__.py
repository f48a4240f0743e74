"""A page to draw on: one HTML file with a network, its weights and a map, and the scripts that run it."""

import base64
import html
import re
from pathlib import Path

import numpy as np

from ...colors import COLORS
from ...escape import printable
from ...files import write_text
from ..shared import fill

HERE = Path(__file__).parent
# in the order in which they need each other
SCRIPTS = "arrays", "network", "ink", "neighbors", "paint", "map", "pad", "collect", "main"
GREYS = 8  # of the training images that are shown; they take half the space that 256 would


def write_page(
    path: str | Path,
    contents: dict,  # what arrays.js has as the type Contents, with NumPy arrays and of JSON's types
    images: np.ndarray,  # uint8 [n, 28, 28], those of the map
    facts: str,  # about the network
) -> None:
    """Write the page. No network is asked for anything. The same input gives the same bytes."""
    images = np.rint(np.rint(images * ((GREYS - 1) / 255)) * (255 / (GREYS - 1))).astype(np.uint8)
    words = {"facts": html.escape(printable(facts)), "samples": f"{len(images):,}"}
    script = "".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    # modules become one, since the scripts within a page cannot import each other
    words["script"] = re.sub(r"^import [^;]*;\n|^export (?=\w)", "", script, flags=re.M)
    words["style"] = (HERE / "style.css").read_text(encoding="utf-8")
    write_text(path, fill(HERE / "page.html", "Draw a digit", images, _as_json(contents | {"colors": COLORS}), **words))


def _as_json(value):
    """Contents with each array as its type, shape and base64."""
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"))).tobytes()
        return {"type": value.dtype.name, "shape": list(value.shape), "data": base64.b64encode(content).decode()}
    if isinstance(value, dict):
        return {key: _as_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(part) for part in value]
    return printable(value) if isinstance(value, str) else value
