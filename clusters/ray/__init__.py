"""Tidegate on Ray: classify a Ray Dataset. `tidegate.ray.serving` serves on Ray Serve."""

from tidegate.ray.data import Classifier, classify
from tidegate.service.offline.tables import Rows

__all__ = ["Classifier", "Rows", "classify"]
