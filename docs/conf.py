"""How Sphinx builds the documentation: `make docs`.

Sphinx, because it is maintained (mkdocs was last released in 2024), reads NumPy docstrings by itself, and turns every
warning into an error; MyST, so that the pages can be read where they lie.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rebasin_fast
import reference

project = "rebasin_fast"
author = "The rebasin_fast developers"
copyright = author
version = release = rebasin_fast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["ref.footnote"]  # sources under "References" need no mark in the text

# Docstrings state types, shapes and defaults themselves. A name in single backticks links to what is documented under
# it, and is shown as code otherwise.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
default_role = "py:obj"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False

html_theme = "furo"
html_title = f"rebasin_fast {version}"

reference.write_pages(Path(__file__).parent / "reference")


def number_by_page(app, what, name, obj, options, lines):
    """Make the footnotes of a docstring, each from 1, the page's own."""
    label = name.replace(".", "-")
    for k, line in enumerate(lines):
        if line.startswith(".. [") or "]_" in line:
            lines[k] = re.sub(r"\[(\d+)\](?=_| )", rf"[#{label}-\1]", line)


def setup(app):
    """Let Sphinx call what is defined above."""
    app.connect("autodoc-process-docstring", number_by_page)
