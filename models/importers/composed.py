"""A chain of torchvision transforms, run as the source library runs it, on its own loader."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.importers.base import Backend


@dataclass(frozen=True)
class Composed:
    """A `SourceTransform`: transforms in two parts, split at the conversion to floats."""

    library: str
    backend: Backend
    to_pixels: Sequence[Callable[[Any], Any]]  # image → resized and cropped image or uint8 tensor
    to_floats: Sequence[Callable[[Any], Any]]  # → float32 [3, H, W]

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Load a file as `datasets.ImageFolder` does; return uint8 [H, W, 3] after all crops."""
        result = self._cut(file)
        array = np.asarray(result)
        return array if isinstance(result, Image.Image) else array.transpose(1, 2, 0)

    def floats(self, file: bytes) -> NDArray[np.float32]:
        """Return the network's input, float32 [3, H, W]."""
        value = self._cut(file)
        for transform in self.to_floats:
            value = transform(value)
        return np.asarray(value)

    def _cut(self, file: bytes) -> Any:
        value: Any = Image.open(io.BytesIO(file)).convert("RGB")
        for transform in self.to_pixels:
            value = transform(value)
        return value
