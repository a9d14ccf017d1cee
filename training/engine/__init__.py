"""The DeepSpeed engine: process group, dropout, checkpoints, and the model that it leaves."""
