"""Starts, monitors and stops a server under test by its process id."""
