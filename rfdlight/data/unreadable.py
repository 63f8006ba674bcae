"""Image files that cannot be read, and the policies for them."""

from __future__ import annotations

from typing import ClassVar, Literal

from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.errors import UserError, shown

Unreadable = Literal["quarantine", "skip", "refuse"]
"""Policy for an unreadable file: count it as a failed image, replace it by another image, or end the run."""


class UnreadableImageError(UserError):
    """An image file is damaged or no image.

    Args:
        position: Position of the image in its split.
        policy: What happens to the image.
        reason: One line that names the file.

    Attributes:
        refused: Whether the error ends the run.
    """

    _printed: ClassVar[set[str]] = set()

    def __init__(self, position: int, policy: Unreadable, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.refused = policy == "refuse"

    def leave_out(self) -> None:
        """Print once per process that the image is left out, or raise this error if the policy is "refuse"."""
        if self.refused:
            raise self
        if str(self) not in self._printed:
            self._printed.add(str(self))
            plain_console(stderr=True).print(Text(shown(f"rfdlight: {self}; left out")), soft_wrap=True)
