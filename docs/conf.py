"""Sphinx: `make docs` builds the site into build/docs."""

import inspect
import sys
from pathlib import Path

from sphinx.application import Sphinx

import surrogate

sys.path.insert(0, str(Path(__file__).parent))  # for example_page.py

project = "surrogate"
author = "The surrogate-neuron developers"
copyright = author
version = release = surrogate.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx.ext.mathjax",
    "example_page",
]
highlight_language = "text"
html_theme = "furo"
html_title = f"surrogate {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

myst_heading_anchors = 3
# Types stand in the docstrings, with shapes and units, which annotations do not have.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False


def _signature_of_init(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """Brian2's groups are made by a metaclass, whose signature says nothing."""
    if what == "class" and signature == "(*args, **kw)":
        init = inspect.signature(obj.__init__)
        named = [one for name, one in init.parameters.items() if name != "self"]
        bare = [one.replace(annotation=one.empty) for one in named]
        return str(inspect.Signature(bare)), returns
    return None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _signature_of_init)
