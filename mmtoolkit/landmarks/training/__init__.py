"""The state of a run: set up, step, save, restore."""
