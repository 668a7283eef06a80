"""Every setting: the TIDEGATE_* environment variables to small frozen configs, read once.

A module for each theme has the fields, their bounds and the configs that they become. What belongs
to the model (size, mean, labels, temperature, thresholds) is in the bundle.
"""

from __future__ import annotations

from tidegate.service.settings.settings import Settings
from tidegate.service.settings.theme import PREFIX

__all__ = ["PREFIX", "Settings"]
