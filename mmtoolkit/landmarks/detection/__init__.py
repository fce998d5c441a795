"""Where the faces are."""
