"""`python -m rfdlight`."""

import sys

from rfdlight.cli import main

if __name__ == "__main__":
    sys.exit(main())
