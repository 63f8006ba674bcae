"""rfdlight: does an image classifier survive query-based black-box attacks?"""

__version__ = "0.1.0"
