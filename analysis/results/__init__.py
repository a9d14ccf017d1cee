"""What a study says: means over its shards, contrasts between cells, and their names."""
