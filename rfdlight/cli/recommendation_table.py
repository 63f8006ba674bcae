"""The table of `rfdlight recommend`, for a terminal of 80 columns."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from rfdlight.analysis.recommendation import NO_NOISE, Confirmed
from rfdlight.evaluation.short_attack import Outcome
from rfdlight.reporting.tables import number

_MOST_SIGMAS = 4
"""That are shown one by one."""


def table(confirmed: list[Confirmed], undefended: Outcome) -> Table:
    """Show what was measured of each candidate, in the order of the prediction, below the victim without noise."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("noise at", overflow="fold")
    for column in ("drop", "misled %", "robust %", "single %", "criterion"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_row(NO_NOISE, "", "", *_attacked(undefended))
    for one in sorted(confirmed, key=lambda one: -one.candidate.predicted):
        cost = one.calibration.cost
        name = Text(f"{one.candidate}\nsigma {_brief(one.candidate.sigmas)}")
        drop = _above(cost.drop, *cost.over_draws, digits=2)
        shown.add_row(name, drop, f"{100 * one.candidate.predicted:.1f}", *_attacked(one.outcome))
    return shown


def _brief(sigmas: tuple[float, ...]) -> str:
    if len(sigmas) > _MOST_SIGMAS:
        return f"{min(sigmas):.3g} to {max(sigmas):.3g}"
    return "/".join(f"{sigma:.3g}" for sigma in sigmas)


def _attacked(outcome: Outcome) -> list[str]:
    robust, summary = outcome.robust, outcome.summary
    single = f"{100 * outcome.single_query:.1f}"
    return [
        _above(robust.value, robust.low, robust.high, digits=1),
        single,
        number(summary.ledger["criterion_ratio"], 2),
    ]


def _above(value: float, low: float, high: float, digits: int) -> str:
    """Return a share in percent, and below it its interval."""
    return f"{100 * value:.{digits}f}\n{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def legend(step: float, calibrated_on: int, attacked: int) -> str:
    """Say what the columns are, and which of them were measured."""
    return (
        f"drop: measured, clean accuracy in points on {calibrated_on} images, 95 % over draws; misled: predicted by "
        f"theorem 1 at these sigmas, steps of {step:.3g} that noise misleads; robust: measured, mean logits, undecided "
        f"as robust, {attacked} images, 95 %; single: measured, one answer; criterion: its rows per row of the attack"
    )
