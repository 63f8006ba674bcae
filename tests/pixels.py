"""Where the real CIFAR-10 is, for the tests that need it."""

import os
from pathlib import Path

import pytest

ROOT = os.environ.get("RFDLIGHT_DATA", "")


def _has_data() -> bool:
    root = Path(ROOT)
    folders = (base / name for base in (root, root / "cifar10") for name in ("test", "cifar-10-batches-py"))
    return bool(ROOT) and any(folder.is_dir() for folder in folders)


NEEDS_PIXELS = [
    pytest.mark.cifar10,
    pytest.mark.skipif(not _has_data(), reason="RFDLIGHT_DATA names no folder with CIFAR-10"),
]
