"""Training recipes, the loop, low-rank updates and checkpoints."""
