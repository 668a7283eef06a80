"""Measure, on seven models, whether the scores that were chosen separate better than any other."""
