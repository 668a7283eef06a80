"""The commands that make bundles, one a module: `parser()` its options, `run()` what it does."""
