"""The commands of `python -m load_tests`, one per module: its options and its execution."""
