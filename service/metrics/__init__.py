"""Every metric: `tables.py` declares it once, and these classes record it.

Each `Metrics` has a separate registry, so that tests and reloads do not share state. The children
used by requests are looked up once, because a lookup costs more than the increment.
"""

from __future__ import annotations

from tidegate.service.metrics.drift import DriftGauges
from tidegate.service.metrics.model import ModelMetrics, ServedModel
from tidegate.service.metrics.service import Metrics

__all__ = ["DriftGauges", "Metrics", "ModelMetrics", "ServedModel"]
