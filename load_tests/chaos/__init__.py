"""Signals, stalls, full disks and hostile clients against a real server, one scenario each."""
