"""Sphinx configuration of the documentation: `make docs` builds it into build/docs."""

from __future__ import annotations

import inspect

import rfdlight
from rfdlight.core.signatures import parameters

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
nb_execution_timeout = 900

# Single backticks in docstrings are code.
default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_google_docstring = True


def _signature(app, what, name, obj, options, signature, returns):
    """Show the options of a component, with those of its base classes, in the place of `*args, **kwargs`."""
    if what == "class" and signature == "(*args, **kwargs)":
        own = (p.replace(annotation=p.empty) for p in parameters(obj).values())
        return str(inspect.Signature(sorted(own, key=lambda p: p.kind))), returns
    return None


def setup(app):
    """Connect the functions of this file to the build."""
    app.connect("autodoc-process-signature", _signature)


html_theme = "furo"
html_title = f"rfdlight {version}"
html_copy_source = False
copybutton_prompt_text = "$ "
