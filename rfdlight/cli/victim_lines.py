"""Opening lines of the commands that measure a victim on clean images."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rfdlight.analysis.clean_cost import CleanCostMeter
from rfdlight.data.base import ImageData
from rfdlight.victims.card import VictimCard
from rfdlight.victims.resolve import other_data_warning


def print_victim(
    console: Console, description: str, card: VictimCard | None, data: ImageData, meter: CleanCostMeter
) -> None:
    """Print the victim and its clean accuracy, and warn of other training data or accuracy at chance level."""
    accuracy = (
        f"undefended clean accuracy {meter.clean_accuracy:.2%} on {len(meter.undefended)} test images that "
        "rfdlight test does not attack"
    )
    console.print(Text("\n".join([description, accuracy])), soft_wrap=True)
    for caution in (other_data_warning(card, data), meter.caution(data.num_classes)):
        if caution is not None:
            console.print(Text(f"warning: {caution}", style="yellow"), soft_wrap=True)
