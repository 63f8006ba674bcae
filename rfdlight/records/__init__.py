"""Records of an evaluation: their schema, run directories, summaries, consistency checks."""
