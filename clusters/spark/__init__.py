"""Tidegate on Spark: classify a DataFrame of images with `mapInPandas`."""

from tidegate.service.offline.tables import Rows
from tidegate.spark.classifier import Classifier, classify

__all__ = ["Classifier", "Rows", "classify"]
