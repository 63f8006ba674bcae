"""Analysis of noise defenses: theorem 1, gradient ratios, cost of noise, calibration, recommendation."""
