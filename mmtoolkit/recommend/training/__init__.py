"""The state of a run: set up, step, save, restore, and the processes that share it."""
