"""Bytes to pixels: bounded decoding and frozen preprocessing, one copy for service and models."""
