"""Networks, losses, and pretrained weights."""
