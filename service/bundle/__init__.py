"""Sealed bundles: what is in one, opening it, and refusing what differs."""
