"""Schedulers, grids of timesteps, and sampling with teachers and students."""
