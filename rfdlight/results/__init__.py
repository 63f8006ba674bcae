"""What an evaluation found: records, and everything that is computed from them."""
