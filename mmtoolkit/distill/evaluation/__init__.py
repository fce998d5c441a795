"""Metrics and the networks whose features they use."""
