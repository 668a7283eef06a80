"""Scenarios with signals, stalls, full disks and hostile clients against a real server."""
