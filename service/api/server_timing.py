"""The `Server-Timing` header: how long each step of an image took, in milliseconds.

`total` and its parts are those of `timing_ms`. A response to an error has the steps that the image
passed. A response for several images has the time to read them, and the total.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from tidegate.service.progress import Progress

_WHOLE = ("read", "decode", "queue", "engine", "gates", "predicted", "total")
_OF_WHOLE = ", ".join(f"{step};dur=%.3f" for step in _WHOLE).encode(
    "ascii"
)  # in one go: per answer


def server_timing(started: float, images: Sequence[Progress]) -> bytes:
    """Return the header's value for a request whose head arrived at `started` (monotonic)."""
    first = images[0]
    read_ms = 1e3 * (first.received - started)
    if len(images) == 1 and first.gates_at is not None and first.batch is not None:
        return _OF_WHOLE % (
            read_ms,
            1e3 * first.decode_s,
            1e3 * first.queue_s,
            1e3 * first.batch.engine_s,
            1e3 * first.gates_s,
            1e3 * (first.predicted_s or 0.0),
            1e3 * (first.ended - first.received),
        )
    now = time.monotonic()
    for image in images:
        image.ended = image.ended or now
    total_ms = 1e3 * (max(image.ended for image in images) - first.received)
    passed = _passed(first) if len(images) == 1 else ()
    steps = [("read", read_ms), *passed, ("total", total_ms)]
    return ", ".join(f"{name};dur={ms:.3f}" for name, ms in steps).encode("ascii")


def _passed(image: Progress) -> Iterable[tuple[str, float]]:
    """Yield the steps of an image that failed."""
    if image.decode_at is not None:
        yield "decode", 1e3 * image.decode_s
    if image.predicted_s is not None:
        yield "queue", 1e3 * image.queue_s
    if image.batch is not None:
        yield "engine", 1e3 * image.batch.engine_s
    if image.predicted_s is not None:
        yield "predicted", 1e3 * image.predicted_s
