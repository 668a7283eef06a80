"""Versions of one model under load: reloads, refused versions and a shadow."""
