"""Configuration of Sphinx; `make docs` builds with warnings as errors."""

from __future__ import annotations

import dtk

project = "dtk"
author = "dtk developers"
project_copyright = "2026, dtk developers"
release = dtk.__version__
version = ".".join(release.split(".")[:2])

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types, with shapes and units
autosummary_generate = True
numpydoc_show_class_members = False  # autodoc lists them, once

html_theme = "alabaster"
html_theme_options = {
    "description": "PyTorch on data bigger than memory, on Dask",
    "page_width": "1000px",
    "sidebar_width": "220px",
    "show_powered_by": False,
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchfield.html"]}
html_show_sourcelink = False
