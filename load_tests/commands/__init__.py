"""The commands of `python -m load_tests`, one a module: its options, and what it runs."""
