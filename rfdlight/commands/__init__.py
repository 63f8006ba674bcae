"""Commands that need no trainer: each is a function that the command line calls."""
