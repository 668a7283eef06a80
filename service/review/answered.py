"""The answer for one image, as the review store keeps it."""

from __future__ import annotations

from typing import NamedTuple

from tidegate.service.types import Decision


class Answered(NamedTuple):
    """The answer for one image."""

    request_id: str
    decision: Decision
    class_id: int
    label: str
    probability: float
    p_value: float
    model: str
    version: str
    digest: str
