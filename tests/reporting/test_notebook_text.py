"""The text of a run in a notebook, where rich would print HTML and colours by default."""

import rich.console
from rich.text import Text

from rfdlight._io import plain_text


def test_a_notebook_and_a_forced_colour_change_nothing(monkeypatch):
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert plain_text(Text("robust [bold] accuracy", style="bold red"), 80) == "robust [bold] accuracy"
