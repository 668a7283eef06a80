"""What every importer returns, and the seam to the library that trained the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.service.bundle.manifest import Precision
from tidegate.service.imaging.spec import PreprocessSpec

Backend = Literal["pillow", "torch", "tensorflow"]


class SourceTransform(Protocol):
    """The source library's own preprocessing, run with its own code: what ours is held to."""

    @property
    def library(self) -> str:
        """Return the library and its version: "torchvision 0.28.0"."""
        ...

    @property
    def backend(self) -> Backend:
        """Return what resizes: Pillow on images, or the framework on tensors."""
        ...

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Load an image file as the library's own loader does; return it after resize and crop.

        uint8 [H, W, 3] in the order red, green, blue, or whichever the network takes.
        """
        ...

    def floats(self, file: bytes) -> NDArray[np.float32]:
        """Return what the network is given for an image file, float32 [3, H, W]."""
        ...


@dataclass(frozen=True, slots=True)
class Imported:
    """A trained classifier, ready to be fitted and sealed."""

    backbone: onnx.ModelProto  # float32 [batch, 3, H, W] → logits [batch, C], features [batch, D]
    spec: PreprocessSpec
    transform: SourceTransform | None  # None: the spec was written by hand, nothing to prove
    forward: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None  # the source's own logits
    source: str  # "timm 1.0.31 resnet50"
    licence: str
    checkpoint_sha256: str
    labels: tuple[str, ...] | None  # line = class id, where the checkpoint knows them
    precision: Precision = "fp32"  # of `backbone`; another only where it was converted before
    notes: tuple[str, ...] = ()  # what was changed or assumed, for the model card
