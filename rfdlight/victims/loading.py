"""`load_victim`: a classifier by its name, path or import path, for Python code."""

from __future__ import annotations

from torch import nn

from rfdlight.victims.resolve import load


def load_victim(name: str, checkpoint: str | None = None) -> nn.Module:
    """Load a classifier of pixels in [0, 1] in eval mode.

    Args:
        name: A shipped name (see `rfdlight.list_victims`), the path of a victim card (.json), `timm:NAME`, or an import
            path such as `my_module.my_net` or `my_file.py:my_net`.
        checkpoint: File of weights, for `timm:NAME` and import paths.

    Raises:
        UserError: If there is no such victim, or its weights cannot be loaded.

    Example:
        >>> load_victim("resnet8-digits").training
        False
    """
    return load(name, checkpoint).module.eval()
