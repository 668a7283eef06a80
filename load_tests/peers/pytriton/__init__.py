"""Triton Inference Server with a Python model through PyTriton."""
