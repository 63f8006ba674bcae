"""Cautions about a victim and its data, which every command that looks at clean images states."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rfdlight.analysis.clean_cost import CleanCostMeter
from rfdlight.data.base import ImageData
from rfdlight.victims.card import VictimCard
from rfdlight.victims.resolve import other_data_warning


def print_cautions(console: Console, card: VictimCard | None, data: ImageData, meter: CleanCostMeter) -> None:
    """Print one line if a victim was trained on other data, and one if its clean accuracy is at chance level."""
    for caution in (other_data_warning(card, data), meter.caution(data.num_classes)):
        if caution is not None:
            console.print(Text(f"caution: {caution}", style="yellow"), soft_wrap=True)
