"""Victims and data that the cells of one process share, so that each is loaded once."""

from __future__ import annotations

import json
from typing import Any

from rfdlight.core.registry import names
from rfdlight.data.base import ImageData
from rfdlight.victims.import_path import is_import_path
from rfdlight.victims.loaded import LoadedVictim
from rfdlight.victims.resolve import load

_OURS = "rfdlight."


class Loads:
    """Keeps the last victim and the last data set, of which the next cell mostly needs one at least.

    Victims and data modules of a user's own code are made anew for each cell, because they may keep a state.
    """

    def __init__(self) -> None:
        self._victim: tuple[tuple[Any, ...], LoadedVictim] | None = None
        self._data: tuple[str, ImageData] | None = None

    def share(self, model: Any, data: ImageData, settings: dict[str, Any]) -> None:
        """Give the components of a cell's command line what earlier cells have loaded; `settings` are those of data."""
        model.load = self.load
        if not type(data).__module__.startswith(_OURS):
            return
        key = json.dumps(settings, sort_keys=True, default=str)
        if self._data is not None and self._data[0] == key:
            data.take_splits(self._data[1])
        self._data = key, data

    def load(self, spec: str, *settings: Any) -> LoadedVictim:
        """Load a victim as `rfdlight.victims.resolve.load` does, or return the last one if it is the same."""
        if spec in names("victim") or is_import_path(spec):
            return load(spec, *settings)
        key = (spec, *(tuple(each) if isinstance(each, list) else each for each in settings))
        if self._victim is None or self._victim[0] != key:
            self._victim = key, load(spec, *settings)
        return self._victim[1]
