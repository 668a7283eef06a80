"""Mutated images and mutated HTTP against a real server, with oracles that judge each answer."""
