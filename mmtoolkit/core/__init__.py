"""What the engines share: errors, settings, logs, run folders, devices, checkpoints, plots."""
