"""Benchmarks that are run by hand: architectures and GPU engines."""
