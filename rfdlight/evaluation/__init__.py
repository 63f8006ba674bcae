"""Evaluation of a victim under attack: run writer, work sharing over processes, sanity checks."""
