"""All that talks to SLURM or starts jobs on this machine."""
