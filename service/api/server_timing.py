"""The `Server-Timing` header: how long each step of an image took, in milliseconds.

`total` and its parts are those of `timing_ms`. A response to an error has the steps that the image
passed. A response for several images has the time to read them, and the total.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from tidegate.service.progress import Progress


def server_timing(started: float, images: Sequence[Progress]) -> bytes:
    """Return the header's value for a request whose head arrived at `started` (monotonic)."""
    now = time.monotonic()
    for image in images:
        image.ended = image.ended or now
    first = images[0]
    steps = {"read": first.received - started}
    if len(images) == 1:
        steps |= _of_one(first)
    steps["total"] = max(image.ended for image in images) - first.received
    return ", ".join(f"{name};dur={1000 * step_s:.3f}" for name, step_s in steps.items()).encode()


def _of_one(image: Progress) -> dict[str, float]:
    steps = {}
    if image.decode_at is not None:
        steps["decode"] = image.decode_s
    if image.predicted_s is not None:
        steps["queue"] = image.queue_s
    if image.batch is not None:
        steps["engine"] = image.batch.engine_s
    if image.gates_at is not None:
        steps["gates"] = image.gates_s
    if image.predicted_s is not None:
        steps["predicted"] = image.predicted_s
    return steps
