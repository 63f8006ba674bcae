"""Export of a defended network as one file, and the check of that file."""
