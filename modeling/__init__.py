"""What training and evaluation share: how a model is loaded, and how its hidden states become logits."""
