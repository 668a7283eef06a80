"""Classify images without a server: in a program, or a folder of millions."""
