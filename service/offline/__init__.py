"""Classify images without a server: in a program, or a folder of millions."""

from tidegate.service.offline.predictor import Answer, Predictor, Problem

__all__ = ["Answer", "Predictor", "Problem"]
