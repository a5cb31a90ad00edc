"""Sphinx: `make docs` builds the site into build/docs."""

import sys
from pathlib import Path

import surrogate

sys.path.insert(0, str(Path(__file__).parent))  # for example_page.py

project = "surrogate"
author = "The surrogate-neuron developers"
copyright = author
version = release = surrogate.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "example_page",
]
highlight_language = "text"
html_theme = "furo"
html_title = f"surrogate {release}"
html_copy_source = False

myst_heading_anchors = 3
# Types stand in the docstrings, with shapes and units, which annotations do not have.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
