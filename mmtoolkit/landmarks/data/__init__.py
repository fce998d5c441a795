"""Labelled faces: the points, data set types, readers and writers, the embedded set, and training batches."""
