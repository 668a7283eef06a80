"""Probe images for the proof of preprocessing and for every bundle's golden probes."""
