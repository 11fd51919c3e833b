"""Checkpoints: where they lie, how they are written and found again, and when ranks take them."""
