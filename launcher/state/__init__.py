"""What became of each job."""
