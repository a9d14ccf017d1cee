"""Records and results from and to other places: W&B, lm-evaluation-harness."""
