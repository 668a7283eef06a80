"""Run a sealed graph on single images on ONNX Runtime's CPU provider, and check its scores."""

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

# Largest accepted difference of the graph's float32 head from float64.
ENERGY_TOLERANCE = 1e-5
DISTANCE_TOLERANCE = 1e-5


def run(sealed: bytes, images: Iterable[Pixels]) -> Outputs:
    """Return the outputs of each image as a batch of one, so that others do not affect rounding."""
    session = quiet_session(sealed)
    rows = [session.run(list(OUTPUTS), {"pixels": pixels[None]}) for pixels in images]
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return Outputs(*columns)


def check_against_float64(outputs: Outputs, head: GateHead) -> tuple[float, float]:
    """Compare the graph's scores with `tidegate.service.ood.scores` on the same outputs.

    Returns the largest energy difference (relative above 1) and relative distance difference.
    Raises BuildRefused if either exceeds its tolerance.
    """
    energy = energy_score(outputs.logits, head.energy_temperature)
    energy_error = float(np.max(np.abs(outputs.energy - energy) / np.maximum(1.0, np.abs(energy))))
    distance, nearest = head.distance(outputs.features)
    # A relative distance is a difference of two, which may be small although both are large.
    absolute, _ = replace(head, background=None).distance(outputs.features)
    scale = distance if head.background is None else np.mean(absolute)
    distance_error = float(np.max(np.abs(outputs.mahalanobis - distance) / scale))
    # `not <=`, so that NaN fails. Equally near classes may swap; their distance is the same.
    if not (energy_error <= ENERGY_TOLERANCE and distance_error <= DISTANCE_TOLERANCE):
        raise BuildRefused(
            f"The sealed graph's scores differ from float64: energy by {energy_error:.2g}, "
            f"distance by {distance_error:.2g}."
        )
    if np.mean(outputs.nearest_class == nearest) < 0.99:
        raise BuildRefused("The sealed graph's nearest classes differ from float64's.")
    return energy_error, distance_error
