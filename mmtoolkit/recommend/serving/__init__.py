"""Lists, names, explanations, new items and new users."""
