"""Which parts of an image a class depends on: cover each, and compute the image again.

Occlusion (Zeiler and Fergus 2014, section 4.2) needs only the sealed graph, which has no gradients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np

from tidegate.service.deciding import softmax
from tidegate.service.imaging.occlusion import Grid, covered, fill_of, patches
from tidegate.service.pipeline import Pipeline, Upload
from tidegate.service.types import Pixels

RUNS_AT_ONCE = 16


async def cover_each_part(
    pipeline: Pipeline,
    upload: Upload,
    pixels: Pixels,
    class_id: int,
    grid: int,
    before_run: Callable[[], Awaitable[None]],
) -> Grid:
    """Return the probability of a class with each part of the pixels covered.

    `before_run` is awaited before each of the grid² runs, which have the upload's deadline and
    priority; at most `RUNS_AT_ONCE` are admitted at a time. Raises the first error of a run, or of
    `before_run`; then, and if this task is cancelled, the other runs leave the queue.
    """
    height, width, _ = pixels.shape
    manifest = pipeline.bundle.manifest
    fill, temperature = fill_of(manifest.preprocess), manifest.calibration.temperature
    probabilities = np.empty(grid * grid)
    left = enumerate(patches(height, width, grid))

    async def run() -> None:
        for index, patch in left:
            await before_run()
            outputs = await pipeline.compute(upload, partial(covered, pixels, patch, fill))
            probabilities[index] = softmax(outputs.logits[0], temperature)[1][class_id]

    try:
        async with asyncio.TaskGroup() as runs:
            for _ in range(min(RUNS_AT_ONCE, grid * grid)):
                runs.create_task(run())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return probabilities.reshape(grid, grid)
