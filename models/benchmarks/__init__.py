"""Measurements that are run by hand: every architecture, the gate, a GPU."""
