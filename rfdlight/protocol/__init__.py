"""The paper's protocol around the attacks: what a defense costs, and how much of it a given cost buys."""
