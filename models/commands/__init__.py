"""The commands that build bundles, one per module: `parser()` and `run()`."""
