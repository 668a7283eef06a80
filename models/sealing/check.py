"""Run a sealed graph over single images on ONNX Runtime's CPU provider, one thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.graphs.session import quiet_session
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.ood.scores import energy_score
from tidegate.service.types import Outputs, Pixels

# Promised of the graph's float32 head against float64, in the issue and in the tests.
ENERGY_TOLERANCE = 1e-5
DISTANCE_TOLERANCE = 1e-5


def run(sealed: bytes, images: Iterable[Pixels]) -> Outputs:
    """Return the outputs of each image as a batch of one: no other image changes its rounding."""
    session = quiet_session(sealed)
    rows = [session.run(list(OUTPUTS), {"pixels": pixels[None]}) for pixels in images]
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return Outputs(*columns)


def check_against_float64(outputs: Outputs, head: GateHead) -> tuple[float, float]:
    """Compare the graph's scores with `tidegate.service.ood.scores` on its own logits and features.

    Returns the largest energy difference (relative above 1) and relative distance difference.
    Raises BuildRefused when either is beyond its tolerance.
    """
    energy = energy_score(outputs.logits, head.energy_temperature)
    energy_error = float(np.max(np.abs(outputs.energy - energy) / np.maximum(1.0, np.abs(energy))))
    distance, nearest = head.distance(outputs.features)
    # A relative distance is a difference of two: it may be small where both are large.
    absolute, _ = replace(head, background=None).distance(outputs.features)
    scale = distance if head.background is None else np.mean(absolute)
    distance_error = float(np.max(np.abs(outputs.mahalanobis - distance) / scale))
    # Written so that a NaN fails. Two classes equally near may swap; the distance cannot.
    if not (energy_error <= ENERGY_TOLERANCE and distance_error <= DISTANCE_TOLERANCE):
        raise BuildRefused(
            f"The sealed graph's scores differ from float64: energy by {energy_error:.2g}, "
            f"distance by {distance_error:.2g}."
        )
    if np.mean(outputs.nearest_class == nearest) < 0.99:
        raise BuildRefused("The sealed graph finds other nearest classes than float64 does.")
    return energy_error, distance_error
