"""From a grid to jobs on a cluster or on this machine. Nothing here imports torch at the top."""
