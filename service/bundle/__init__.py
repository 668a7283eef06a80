"""Sealed bundles: their format, and opening one with verification of every file."""
