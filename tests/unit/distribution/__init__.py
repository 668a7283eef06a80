"""Pulling and pushing bundles."""
