"""What runs inside a job, and what it says of itself."""
