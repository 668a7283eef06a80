"""Folders of classes whose images differ in large areas, as photographs do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(seed: int) -> NDArray[np.uint8]:
    """Return an image of 32 × 32 pixels."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    whole: NDArray[np.uint8] = np.repeat(np.repeat(patches, 4, axis=0), 4, axis=1)
    return whole


def nearly(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return the same image with some noise."""
    noise = np.random.default_rng(seed).integers(-4, 5, pixels.shape)
    return np.asarray(np.clip(pixels + noise, 0, 255), np.uint8)


def put(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Write an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def classes(root: Path, counts: dict[str, int]) -> Path:
    """Write so many unlike images for each class below `root`, and return it."""
    for at, (label, count) in enumerate(counts.items()):
        for index in range(count):
            put(root / label / f"{index:03}.png", picture(1000 * at + index))
    return root
