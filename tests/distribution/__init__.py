"""Pulling from and pushing to real stores."""
