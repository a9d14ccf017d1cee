"""Supervised fine-tuning with DeepSpeed ZeRO: one visible loop in train.py."""
