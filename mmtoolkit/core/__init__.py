"""What the engines share: errors, settings, logging, run folders, devices, checkpoints and plots."""
