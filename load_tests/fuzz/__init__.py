"""Sends mutated images and mutated HTTP to a real server, and checks each answer with oracles."""
