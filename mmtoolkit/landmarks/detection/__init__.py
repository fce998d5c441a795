"""Face detection: the shipped detector, its training, and detectors by name."""
