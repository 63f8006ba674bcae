"""`rfdlight export`: write a defended network into one file and check that its noise is alive."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import Defense
from rfdlight.deployment.card import card_file
from rfdlight.deployment.export import export_unraised
from rfdlight.deployment.formats import SUFFIXES, Format, check_installed
from rfdlight.errors import UserError, legible
from rfdlight.victims.resolve import load, resolve_victim

_STATES = {True: "ok", False: "FAILED", None: "note"}


def export_network(
    victim: str,
    data: ImageData | None = None,
    defense: Defense | list[Defense] | None = None,
    checkpoint: str | None = None,
    format: Format = "onnx",
    output: str | None = None,
    num_images: int = 8,
    draws: int = 256,
    seed: int = 0,
) -> None:
    """Write a defended network into one file, with its noise inside, and check that the noise is alive.

    The file takes pixels in [0, 1]. A fresh process loads it and compares its answers with the network's; the card
    beside the file says what was found, and how a server seeds the noise. A file that fails the check is kept; the exit
    status is 1 then.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Data set of the check, by default the victim card's. If its images are missing, a victim with a card is
            checked on random pixels.
        defense: Defense; `--defense+ NAME` adds another one.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        format: For ONNX Runtime, or for `torch.export.load`.
        output: File to write, by default defended.onnx or defended.pt2.
        num_images: Images of the check.
        draws: Answers per image in the comparison of means and variances.
        seed: Of the noise in the check.

    Raises:
        UserError: If an option is out of range, something cannot be loaded, or the defended network cannot be exported.
        ExportCheckError: If the check failed.
    """
    check_installed(format)
    console = plain_console()
    if data is not None:
        try:
            data.images("test")
        except UserError as error:
            found = load(victim, checkpoint)
            if found.card is None:
                raise
            console.print(Text(f"warning: the check has random pixels: {legible(error)}"), soft_wrap=True)
            data = None
    found = load(victim, checkpoint) if data is None else resolve_victim(victim, checkpoint, data)
    file = output or f"defended{SUFFIXES[format]}"
    card = export_unraised(
        found, file, data, defense=defense or (), format=format, num_images=num_images, draws=draws, seed=seed
    )
    opset = "" if card.opset is None else f", opset {card.opset}"
    defended = " + ".join(card.defense) or "no defense"
    console.print(Text(f"{file}: {card.victim}; {defended}"), soft_wrap=True)
    console.print(Text(f"{card.bytes / 1e6:.1f} MB{opset}, sha256 {card.sha256[:16]}"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("check", "", "found"):
        table.add_column(column, overflow="fold")
    for finding in card.check:
        table.add_row(Text(finding.name), Text(_STATES[finding.passed]), Text(finding.text))
    console.print(table)
    for warning in card.warnings:
        console.print(Text(f"warning: {warning}"), soft_wrap=True)
    console.print(Text(f"{card_file(file)}: how to serve it. {card.seeding}"), soft_wrap=True)
    card.raise_if_failed()
