"""From rows of text to the batches of token ids that a step trains on."""
