"""Slow attacks on one image, one query at a time, written from the papers' steps in plain Python loops."""
