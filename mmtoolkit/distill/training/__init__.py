"""The state of a run: targets, steps, memory, set up, save, restore."""
