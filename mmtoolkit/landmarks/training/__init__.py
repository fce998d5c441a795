"""State and loop of a training run."""
