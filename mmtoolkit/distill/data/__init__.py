"""Data sets: readers, types, and the embedded set."""
