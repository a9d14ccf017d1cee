"""The benchmarks that a grid can name: one YAML file each, and what reads them."""
