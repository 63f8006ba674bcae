"""Sphinx configuration of the documentation: `make docs` builds it into build/docs."""

from __future__ import annotations

import rfdlight

project = "rfdlight"
author = "the rfdlight contributors"
copyright = "the rfdlight contributors, MIT licence"
release = version = rfdlight.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["examples"]
suppress_warnings: list[str] = []

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 4

# Each build runs the notebooks: what a page shows is what this version prints.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True

html_theme = "furo"
html_title = f"rfdlight {version}"
html_copy_source = False
copybutton_prompt_text = "$ "
