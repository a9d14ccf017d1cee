"""Multiple-choice items of a benchmark, read from the hub, from local files, or generated."""
