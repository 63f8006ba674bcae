"""The program `rfdlight`, also as `python -m rfdlight`."""

import os
import sys

from rfdlight.cli.launcher import end_with_parent, started_by_lightning
from rfdlight.errors import one_line


def main() -> int:
    """Run the command line of this process; the exit status is 2 if a library cannot be imported."""
    # If process 0 of a run is killed, torch would print the stack of every other process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if started_by_lightning(os.environ):
        end_with_parent()  # the parent may be killed before the processes are connected
    try:
        from rfdlight.cli import main as cli
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        hint = "python -c 'import rfdlight.cli.main' shows where"
        print(f"rfdlight: cannot start: {reason}; {hint}", file=sys.stderr)  # noqa: T201
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
