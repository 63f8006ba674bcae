"""A report as LaTeX tables."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable

from rfdlight.errors import one_line
from rfdlight.records.summary import Estimate
from rfdlight.reporting.paired import Side
from rfdlight.reporting.report import (
    READING_LETTERS,
    READING_PAIRS,
    Heading,
    Report,
    defense_text,
    p_text,
    points,
    points_interval,
)

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # at the start of a row, a bracket would be an argument of the row's end before it
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}
_NAME = r">{\raggedright\arraybackslash}p{0.24\linewidth}"
_HEAD_WIDTH = 12
"""Characters of an attack's name and settings that one column has room for in a line."""

_PREAMBLE = r"""% For the preamble: \usepackage{booktabs,array}
% A number over its interval; define \rfdcell before this file to have it another way.
\providecommand{\rfdcell}[2]{\begin{tabular}[t]{@{}c@{}}#1\\[-1pt]\scriptsize #2\end{tabular}}"""


def latex(report: Report) -> str:
    r"""Return a report's grid and comparisons as LaTeX tables, to be `\input` into a paper.

    They need the packages booktabs and array. The notes are comments above the tables; those that warn of the
    numbers also stand in the captions, so that no table is printed without them.
    """
    parts = [_PREAMBLE, _comments(report.notes)]
    parts.append(_float(["Robust accuracy in %.", *report.warnings, *report.reading()], _grid(report)))
    if report.comparisons:
        caption = [f"{report.paired_title}.", *report.warnings, READING_PAIRS, READING_LETTERS]
        parts.append(_float(caption, _pairs(report)))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    r"""Return text as LaTeX that shows it as it is.

    Example:
        >>> print(escape("50% of a_b & $c"))
        50\% of a\_b \& \$c
    """
    return re.sub(r"[\\{}~^<>|`\[&%$#_]", lambda sign: _SPECIAL[sign[0]], one_line(text))


def _comments(notes: Iterable[str]) -> str:
    return "\n".join(["% What to know before believing these numbers:", *(f"% - {one_line(note)}" for note in notes)])


def _float(caption: Iterable[str], lines: Iterable[str]) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            f"\\caption{{{escape(' '.join(caption))}}}",
            r"\smallskip",
            *lines,
            r"\end{table}",
        ]
    )


def _grid(report: Report) -> Iterable[str]:
    headings = report.headings()
    letters = report.letters() if report.comparisons else {}
    numbers = len(headings) + 1
    yield f"\\begin{{tabular}}{{{_NAME}{'c' * numbers}}}"
    yield r"\toprule"
    yield from _head(headings)
    for victim, rows in report.by_victim().items():
        yield from _group(victim, numbers + 1)
        for row in rows:
            cells = map(_share, report.shares(row), report.remarks(row))
            name = f"{letters.get(row.method, '')} {defense_text(row.method)}".strip()
            yield _row([escape(name), _share(row.clean), *cells])
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _head(headings: list[Heading]) -> Iterable[str]:
    """Return two rows: each attack over its columns, then the numbers of queries."""
    spans, rules, first = [], [], 3
    for attack, over in itertools.groupby(heading.attack for heading in headings):
        width = len(list(over))
        name = r"\\".join(map(escape, textwrap.wrap(attack, _HEAD_WIDTH * width, break_long_words=False)))
        spans.append(f"\\multicolumn{{{width}}}{{c}}{{\\shortstack{{{name}}}}}")
        rules.append(f"\\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    yield _row(["", "", *spans])
    yield " ".join(rules)
    yield _row(["defense", "clean", *(escape(heading.queries) for heading in headings)])


def _group(name: str, columns: int) -> Iterable[str]:
    yield r"\midrule"
    yield _row([f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{escape(name)}}}}}"])


def _pairs(report: Report) -> Iterable[str]:
    letters = report.letters()

    def name(side: Side) -> str:
        return letters[side.method] if report.subject == "defenses" else escape(side.attack)

    yield r"\begin{tabular}{ccccccc}"
    yield r"\toprule"
    yield _row(["pair", "only 1st", "only 2nd", "points", r"95\% interval", "$p$", "$p$ Holm"])
    for heading, pairs in report.grouped().items():
        yield from _group(heading, 7)
        for pair in pairs:
            yield _row(
                [
                    f"{name(pair.second)} $-$ {name(pair.first)}",
                    f"{pair.only_second:,}",
                    f"{pair.only_first:,}",
                    _math(points(pair.difference)),
                    _math(points_interval(pair.interval)),
                    _math(p_text(pair.p)),
                    _math(p_text(pair.p_holm)),
                ]
            )
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _share(share: Estimate | None, remark: str = "") -> str:
    if share is None or not share.total:
        return "--"
    bounds = f"{100 * share.low:.1f}--{100 * share.high:.1f}"
    below = rf"{bounds}\\[-1pt]\scriptsize {escape(remark)}" if remark else bounds
    return f"\\rfdcell{{{100 * share.value:.1f}}}{{{below}}}"


def _math(text: str) -> str:
    """Set the numbers of a text, with their signs, as mathematics."""
    return re.sub(r"[<+-]?\d+(\.\d+)?", r"$\g<0>$", text)
