"""What stops a load test, apart from bad arguments (ValueError, FileNotFoundError)."""


class MeasurementFailed(Exception):
    """Nothing usable was measured: the server did not start, answer or stay up. Exit code 1."""
