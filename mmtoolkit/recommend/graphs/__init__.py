"""Item graphs, their sparse products, and noise put into them on purpose."""
