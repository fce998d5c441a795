"""Presets, one folder for each engine, read through importlib.resources."""
