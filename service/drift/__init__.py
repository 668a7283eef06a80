"""Drift detection: compare traffic with the calibration. Pure computation, without a clock."""
