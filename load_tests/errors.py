"""Errors of a load test, except bad arguments (ValueError, FileNotFoundError)."""


class MeasurementFailed(Exception):
    """Nothing usable was measured: the server did not start, answer or stay up. Exit code 1."""
