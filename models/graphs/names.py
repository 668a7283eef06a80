"""The names of tensors in sealed graphs."""

from tidegate.service.types import OUTPUT_NAMES

OUTPUTS = OUTPUT_NAMES
PREFIX = "tidegate/"  # of every node and constant that sealing adds
