"""Multiple-choice items of a benchmark's language, read from wherever it lies."""
