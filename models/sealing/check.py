"""Run a sealed graph on single images on ONNX Runtime's CPU provider, and check its scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.graphs.session import quiet_session
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.types import Outputs, Pixels

SCORE_TOLERANCE = 1e-5  # largest accepted difference of the graph's float32 scores from float64


def run(sealed: bytes, images: Iterable[Pixels]) -> Outputs:
    """Return the outputs of each image as a batch of one, so that others do not affect rounding."""
    session = quiet_session(sealed)
    rows = [session.run(list(OUTPUTS), {"pixels": pixels[None]}) for pixels in images]
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return Outputs(*columns)


def check_against_float64(outputs: Outputs, head: GateHead) -> dict[str, float]:
    """Compare the graph's scores with `tidegate.service.ood.scores` on the same outputs.

    Returns the largest difference of each score, relative to its values if they are above 1, and
    always for the distance. Raises BuildRefused if one exceeds its tolerance.
    """
    expected, nearest = head.scores(outputs.logits, outputs.features)
    scale = np.maximum(1.0, np.abs(expected))
    # A relative distance is a difference of two, which may be small although both are large.
    absolute, _ = replace(head, background=None).distance(outputs.features)
    scale[:, 1] = expected[:, 1] if head.background is None else np.mean(absolute)
    errors = np.max(np.abs(outputs.scores - expected) / scale, axis=0)
    found = dict(zip(head.names, errors.tolist(), strict=True))
    # `not <=`, so that NaN fails. Equally near classes may swap; their distance is the same.
    if not np.all(errors <= SCORE_TOLERANCE):
        differences = ", ".join(f"{name} by {error:.2g}" for name, error in found.items())
        raise BuildRefused(f"The sealed graph's scores differ from float64: {differences}.")
    if np.mean(outputs.nearest_class == nearest) < 0.99:
        raise BuildRefused("The sealed graph's nearest classes differ from float64's.")
    return found
