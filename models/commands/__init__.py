"""The commands of `python -m models`, one a module: its options, and what it runs."""
