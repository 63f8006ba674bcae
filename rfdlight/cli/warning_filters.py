"""What the terminal is spared."""

from __future__ import annotations

import logging
import warnings


def be_quiet() -> None:
    """Leave the terminal to rfdlight: no advertisements, no warnings about what is meant to be so."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    meant = (
        "isinstance.treespec, LeafSpec",
        "does not have many workers",
        "smaller than the logging interval",
        "WeightAveraging callback with a model that overrides",
        "Experiment logs directory",
        "is not supported by the model summary",
        "Total length of `list` across ranks is zero",
    )
    for message in (f".*{part}.*" for part in meant):
        warnings.filterwarnings("ignore", message)
