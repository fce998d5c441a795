"""Metrics and protocol."""
