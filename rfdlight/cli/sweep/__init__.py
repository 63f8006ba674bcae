"""`rfdlight sweep`: grids of evaluations, on one device, many devices or a cluster."""
