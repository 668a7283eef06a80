"""Generates load at a rate or with N clients, and records the outcome of each request."""
