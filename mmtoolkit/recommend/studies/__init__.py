"""Studies of many runs: ablation, robustness, scaling, tuning, and their plots."""
