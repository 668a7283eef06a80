"""Engines on TensorRT and TensorRT-RTX, and their plans."""
