"""The result of every importer, and the interface to the library that trained the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.models.training_record import TrainingRecord
from tidegate.service.bundle.manifest import Precision
from tidegate.service.imaging.spec import PreprocessSpec

Backend = Literal["pillow", "torch", "tensorflow", "cv2"]


class SourceTransform(Protocol):
    """The source library's own preprocessing code, which ours must reproduce."""

    @property
    def library(self) -> str:
        """Return the library and its version: "torchvision 0.28.0"."""
        ...

    @property
    def backend(self) -> Backend:
        """Return which library resizes: Pillow on images, or the framework on tensors."""
        ...

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Load an image file with the library's own loader; return it after resize and crop.

        uint8 [H, W, 3] in the network's channel order, red, green, blue or the reverse.
        """
        ...

    def floats(self, file: bytes) -> NDArray[np.float32]:
        """Return the network's input for an image file, float32 [3, H, W]."""
        ...


class Preprocessing(NamedTuple):
    """A spec, and the code or its results that prove it."""

    spec: PreprocessSpec
    transform: SourceTransform


@dataclass(frozen=True, slots=True)
class Rival:
    """Another preprocessing that training may have used, as the source does not state its own."""

    options: str  # that choose it: "--size 224"
    spec: PreprocessSpec


@dataclass(frozen=True, slots=True)
class Imported:
    """A trained classifier, ready to be fitted and sealed."""

    backbone: onnx.ModelProto  # float32 [batch, 3, H, W] → logits [batch, C], features [batch, D]
    spec: PreprocessSpec
    transform: SourceTransform | None  # None: the spec was written by hand
    forward: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None  # the source's own logits
    source: str  # "timm 1.0.31 resnet50"
    licence: str
    checkpoint_sha256: str
    labels: tuple[str, ...] | None  # by class id, if the checkpoint has them
    precision: Precision = "fp32"  # of `backbone`
    notes: tuple[str, ...] = ()  # what was changed or assumed, for the model card
    rivals: tuple[Rival, ...] = ()  # of `spec`; none if it is stated
    training: TrainingRecord | None = None  # of the weights, if Tidegate trained them
