"""What `rfdlight doctor` checks: the machine, the packages and the files that a run needs."""
