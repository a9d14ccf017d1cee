"""From a study's folder to arrays and numbers: each shard, by cell, test and language."""
