"""Engines on TensorRT and TensorRT-RTX, with their plan cache."""
