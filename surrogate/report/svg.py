"""Figures as SVG for an HTML page with several of them, readable by screen readers."""

from __future__ import annotations

import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from surrogate.files import atomic_write_text
from surrogate.plots.style import figure_style

__all__ = ["Drawing", "draw", "write_drawings"]

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"

# Text that stays text, no background, and the same ids each time.
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "surrogate",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Drawing:
    """One figure.

    Attributes
    ----------
    name : str
        Its file's name without suffix, and the prefix of every id within it.
    title : str
        What it shows, in a few words.
    description : str
        What a reader who does not see it needs to know.
    caption : str
        Printed below it.
    svg : str
        An ``<svg>`` element without namespace declarations, as HTML wants it.
    """

    name: str
    title: str
    description: str
    caption: str
    svg: str

    def file_text(self) -> str:
        """The figure as an SVG file of its own, on white."""
        svg = self.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        return svg.replace("max-width", "background: white; max-width", 1) + "\n"


def draw(
    name: str, title: str, description: str, caption: str, plot: Callable[[Path], None]
) -> Drawing:
    """The figure that ``plot`` writes to the path of an SVG file.

    Parameters
    ----------
    name, title, description, caption : str
        See :class:`Drawing`.
    plot : callable
        Draws with matplotlib, in the style of the page.
    """
    with tempfile.TemporaryDirectory() as folder, figure_style(**_STYLE):
        path = Path(folder, "figure.svg")
        plot(path)
        root = ElementTree.parse(path).getroot()
    _simplify(root)
    _make_ids_unique(root, name)
    _describe(root, name, title, description)
    return Drawing(name, title, description, caption, ElementTree.tostring(root, "unicode"))


def write_drawings(folder: Path, drawings: list[Drawing]) -> list[Path]:
    """Write each figure to ``folder/<name>.svg``; returns the paths.

    Raises
    ------
    DataError
        If a file cannot be written.
    """
    paths = [folder / f"{drawing.name}.svg" for drawing in drawings]
    for path, drawing in zip(paths, drawings, strict=True):
        atomic_write_text(path, drawing.file_text())
    return paths


def _simplify(root: ElementTree.Element) -> None:
    """Leave out namespaces, metadata and the style sheet, which would style the whole page."""
    for child in list(root):
        if child.tag == f"{_SVG}metadata" or child.find(f"{_SVG}style") is not None:
            root.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if _LINK in element.attrib:
            element.attrib["href"] = element.attrib.pop(_LINK)
    root.set("stroke-linejoin", "round")
    # As wide as the page allows, but no wider than it was drawn.
    root.set("style", f"max-width: {root.attrib['width']}")
    for attribute in ("width", "height", "version"):
        del root.attrib[attribute]


def _make_ids_unique(root: ElementTree.Element, prefix: str) -> None:
    """Put ``prefix`` before ids that are referred to, and drop the others."""
    used = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            reference = r"^#(.+)" if key == "href" else r"url\(#([^)]+)\)"
            if found := re.search(reference, value):
                used.add(found[1])
                element.set(key, value.replace(f"#{found[1]}", f"#{prefix}-{found[1]}"))
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", f"{prefix}-{name}")


def _describe(root: ElementTree.Element, name: str, title: str, description: str) -> None:
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
