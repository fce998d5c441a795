"""Schedulers, grids of timesteps, and drawing with teachers and students."""
