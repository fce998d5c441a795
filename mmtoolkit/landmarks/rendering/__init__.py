"""Procedural heads and the pictures made of them."""
