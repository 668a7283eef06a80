"""Canary and shadow: routes by hash, compares two versions, and judges a canary."""
