"""Checkpoints, and the model that a run leaves."""
