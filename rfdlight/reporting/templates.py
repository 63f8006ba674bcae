"""The jinja2 templates of reports; every value that a template inserts is escaped for its format."""

from __future__ import annotations

import base64
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rfdlight.errors import one_line

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "`": r"\textasciigrave{}",
        "[": "{[}",  # at the start of a row, a bracket would be an argument of the row's end before it
        **{sign: f"\\{sign}" for sign in "{}&%$#_"},
    }
)


class Source(str):
    """LaTeX source, which a template inserts without escaping."""


def render_html(name: str, **values: Any) -> str:
    """Return an HTML template with its values."""
    return _html().get_template(name).render(**values)


def render_latex(name: str, **values: Any) -> str:
    """Return a LaTeX template with its values."""
    return _latex().get_template(name).render(**values)


def escape_latex(value: object) -> str:
    """Return a value as LaTeX that shows its text as it is."""
    return value if isinstance(value, Source) else one_line(value).translate(_LATEX)


@cache
def _html() -> Environment:
    environment = _environment(autoescape=True)
    environment.filters["png"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return environment


@cache
def _latex() -> Environment:
    environment = _environment(
        finalize=escape_latex,
        keep_trailing_newline=True,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters["comment"] = lambda text: Source(one_line(text))
    environment.filters["numbers"] = lambda text: Source(re.sub(r"[<+-]?\d+(\.\d+)?", r"$\g<0>$", text))
    return environment


def _environment(**options: Any) -> Environment:
    loader = PackageLoader("rfdlight.reporting")
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)
