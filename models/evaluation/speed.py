"""Compare the CPU time per image of sealed graphs.

The rounds of all graphs are interleaved, so other load affects all of them alike, and the ratio of
medians is more reliable than a single number.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.graphs.session import quiet_session
from tidegate.service.types import Float32

_WARM_UP = 3


Images = NDArray[np.uint8] | Mapping[str, NDArray[np.uint8]]


def cpu_ms_per_image(
    graphs: Mapping[str, bytes], pixels: Images, *, batch: int = 1, rounds: int = 30
) -> dict[str, float]:
    """Return the median CPU milliseconds per image of each sealed graph, by name.

    `pixels` [images, H, W, 3] run in batches of `batch`, repeated if there are fewer; graphs of
    different input sizes have their own, by name.
    """
    times = cpu_ms_rounds(graphs, pixels, batch=batch, rounds=rounds)
    return {name: float(np.median(values)) for name, values in times.items()}


def cpu_ms_rounds(
    graphs: Mapping[str, bytes], pixels: Images, *, batch: int = 1, rounds: int = 30
) -> dict[str, Float32]:
    """Return every round's CPU milliseconds per image, [rounds]."""
    sessions = {name: quiet_session(graph) for name, graph in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for number in range(-_WARM_UP, rounds):
        for name, session in sessions.items():
            images = pixels[name] if isinstance(pixels, Mapping) else pixels
            rows = np.arange(number * batch, (number + 1) * batch) % len(images)
            given = {"pixels": np.ascontiguousarray(images[rows])}
            # A session with one thread runs entirely on the calling thread.
            begun = time.thread_time()
            session.run(list(OUTPUTS), given)
            if number >= 0:
                times[name].append(1e3 * (time.thread_time() - begun) / batch)
    return {name: np.array(values, np.float32) for name, values in times.items()}
