"""Pulling and pushing sealed bundles. The service itself never does it: it reads a folder."""
