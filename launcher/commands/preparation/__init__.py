"""Commands that come before a study: they look at a grid or at the machine, and submit nothing."""
