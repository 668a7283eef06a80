"""Triton Inference Server, its models written in Python through PyTriton."""
