"""The tables of a study as files."""
