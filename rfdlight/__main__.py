"""The program `rfdlight`, also as `python -m rfdlight`."""

import os
import sys

from rfdlight.cli import front
from rfdlight.cli.launcher import end_with_parent, is_bound


def main() -> int:
    """Run the command line of this process and return its exit status."""
    # If process 0 of a run is killed, torch would print the stack of every other process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if is_bound(os.environ):
        end_with_parent()  # the parent may be killed before the processes are connected
    return front.main()


if __name__ == "__main__":
    sys.exit(main())
