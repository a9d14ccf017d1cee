"""What the commands of the analysis print."""
