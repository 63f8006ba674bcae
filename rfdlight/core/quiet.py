"""Silence of libraries whose log and warnings repeat what becomes one line of ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_log() -> Iterator[None]:
    """Drop the log of all libraries inside a with block."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the log and the warnings of all libraries inside a with block."""
    with no_log(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
