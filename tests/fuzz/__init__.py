"""Random input of every kind, and what must hold whatever it is; the tests beside the code run a little of it, those
below `tests/faults` much."""
