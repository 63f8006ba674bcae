"""Filters for messages of libraries that the terminal does not show."""

from __future__ import annotations

import logging
import warnings


def be_quiet() -> None:
    """Hide advertisements of libraries, and warnings about settings that are intended."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    intended = (
        "isinstance.treespec, LeafSpec",
        "does not have many workers",
        "smaller than the logging interval",
        "WeightAveraging callback with a model that overrides",
        "Experiment logs directory",
        "is not supported by the model summary",
        "Total length of `list` across ranks is zero",
    )
    for message in (f".*{part}.*" for part in intended):
        warnings.filterwarnings("ignore", message)
