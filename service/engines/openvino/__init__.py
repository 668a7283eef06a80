"""Engines on OpenVINO."""
