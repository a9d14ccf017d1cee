"""Estimates with their replicates, intervals and tests."""
