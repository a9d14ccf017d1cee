"""A model and one language of a benchmark in, prediction records out. Imports nothing but `study`."""
