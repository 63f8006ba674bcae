"""Small inputs after public bug reports by people who evaluate or defend image classifiers, each with its report."""
