"""What runs inside a job, and the records of its attempts and failures."""
