"""Points in pictures and videos, and the files written."""
