"""Small inputs after public bug reports by people who evaluate or defend image classifiers; each test links its report."""
