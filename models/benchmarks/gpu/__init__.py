"""Measure the engines on a GPU, and write a report with the environment."""
