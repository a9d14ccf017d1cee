"""Weights & Biases: one run a job, and the files it leaves."""
