"""Metrics and the challenge's protocol."""
