"""Draws synthetic OOD images: patterns, documents, screens, charts and drawings."""
