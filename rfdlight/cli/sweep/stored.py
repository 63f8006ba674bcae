"""Finished cells of a sweep at a URL: those of other machines are copied here, those of this machine uploaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rfdlight._io import write_file
from rfdlight.cli.sweep.experiment import Cell
from rfdlight.errors import UserError
from rfdlight.records.run_directory import create
from rfdlight.records.storage import check_upload, download, finished_cells, upload


def fetch(url: str, folder: Path, cells: Iterable[Cell]) -> None:
    """Copy the cells that are finished at a URL and missing in a folder, as far as reports read them.

    Raises:
        UserError: If the URL cannot be read and written, or a cell there has other settings.
    """
    missing = {cell.name: cell for cell in cells if not (folder / cell.name).exists()}
    check_upload(url)
    for name, config in finished_cells(url, missing).items():
        if config != missing[name].as_yaml().encode():
            raise UserError(
                f"upload: expected cells of this experiment's settings, got {url}/{name} of other settings; give "
                "another URL"
            )
        create(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetched-") as scratch:
            copy = download(f"{url.rstrip('/')}/{name}", Path(scratch))
            write_file(missing[name].file(folder), config)
            os.replace(copy, folder / name)


def send(url: str, folder: Path, cells: Iterable[str]) -> None:
    """Upload finished cells; those that are there stay."""
    for name in cells:
        upload(folder / name, url)
