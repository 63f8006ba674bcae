"""The program `rfdlight`, also as `python -m rfdlight`."""

import os
import sys

from rfdlight.cli.launcher import check_launcher, end_with_parent, started_by_lightning
from rfdlight.errors import one_line


def main() -> int:
    """Run this process's command line; where the libraries cannot even be imported, say so in one line.

    Lightning, for one, cannot be imported where a launcher's variable is no number.

    Returns:
        The exit status: that of `rfdlight.cli.main.main`, or 2 if it cannot be imported.
    """
    # Where process 0 of a run is killed, torch would print the stack of every other process's last call.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if started_by_lightning(os.environ):
        end_with_parent()  # which may be killed before the processes know of one another
    try:
        from rfdlight.cli import main as cli
    except Exception as error:
        told = [f"{row.found}: {row.remedy}" for row in check_launcher(os.environ, False) if row.state == "fail"]
        hint = "; ".join(told) or "python -c 'import rfdlight.cli.main' shows where"
        print(f"rfdlight: cannot start: {one_line(f'{type(error).__name__}: {error}')}; {hint}", file=sys.stderr)  # noqa: T201
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
