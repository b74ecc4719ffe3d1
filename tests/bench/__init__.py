"""How fast retrain is, as ratios measured in one run: `make bench`. No tests: nothing passes or fails."""
