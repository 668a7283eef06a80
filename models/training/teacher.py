"""The teacher of a distillation. No torch: it is the graph that is sealed, or would be.

It sees the view that the student sees, after the random changes: the whole view, resized to the
teacher's input, in its order of channels and with its normalisation. Its own crop is left out, as
it would show it less than the student sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.data.outputs import in_order
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import open_session, quiet_session
from tidegate.models.graphs.spatial_maps import Grid, spatial_maps
from tidegate.models.importers.base import Imported
from tidegate.models.sealing.seal import without_gate
from tidegate.models.training.distil_config import Distillation
from tidegate.service.imaging.preprocess import apply
from tidegate.service.imaging.spec import (
    Grey,
    PreprocessSpec,
    Resize,
    ResizeKeepRatio,
    ResizeShortestEdge,
)

Float32 = NDArray[np.float32]
# Images that are run together. It depends on neither the batch nor the number of threads, so
# neither changes the rounding.
_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Taught:
    """What a teacher says about some views."""

    logits: Float32  # [n, classes]
    features: Float32  # [n, D], the input of the last layer
    attention: tuple[Float32, ...]  # [n, h · w] for each grid that was asked for


@dataclass(frozen=True, slots=True)
class Teaching:
    """What a student learns from, in addition to its labelled images."""

    source: Imported  # the teacher
    chosen: Distillation
    unlabelled: tuple[Path, ...] = ()  # images without classes
    notes: tuple[str, ...] = ()  # sentences on them, for the card

    @property
    def identity(self) -> dict[str, str]:
        """Return what the result depends on, by name."""
        made = (self.source.checkpoint_sha256, self.source.precision, self.source.spec.digest)
        names = "".join(f"{path}\n" for path in self.unlabelled)
        return {
            "teacher": ", ".join(made),
            "unlabelled images": hashlib.sha256(names.encode()).hexdigest(),
        }


class Teacher:
    """Runs an imported classifier on views."""

    def __init__(
        self, source: Imported, grids: Iterable[Grid] = (), threads: int | None = None
    ) -> None:
        """Open `source`; `grids` are those of `grids_of` whose attention is wanted."""
        self._spec = as_seen(source.spec)
        graph = without_gate(source.backbone, source.spec)
        maps = spatial_maps(source.backbone)
        self._outputs = ["logits", "features", *(maps[grid] for grid in grids)]
        self._session = (
            open_session(onnx.load_model_from_string(graph), self._outputs)
            if len(self._outputs) > 2
            else quiet_session(graph)
        )
        self._threads = threads

    def see(self, views: NDArray[np.uint8]) -> Taught:
        """Return the outputs for views [n, H, W, 3], red, green and blue."""
        parts = [views[at : at + _TOGETHER] for at in range(0, len(views), _TOGETHER)]
        found = list(in_order(self._run, parts, self._threads))
        logits, features, *maps = (np.concatenate(column) for column in zip(*found, strict=True))
        return Taught(logits, features, tuple(maps))

    def _run(self, views: NDArray[np.uint8]) -> list[Float32]:
        pixels = np.stack([apply(Image.fromarray(view), self._spec) for view in views])
        logits, features, *maps = self._session.run(self._outputs, {"pixels": pixels})
        return [logits, features, *map(attention, maps)]


def grids_of(source: Imported) -> tuple[Grid, ...]:
    """Return the grids of the teacher's spatial maps. Raises BuildRefused if they are not seen."""
    if source.precision != "fp32":
        raise BuildRefused(
            f"The teacher is in {source.precision}, whose inner tensors cannot be read: attention "
            "transfer needs a teacher in fp32."
        )
    return tuple(spatial_maps(source.backbone))


def as_seen(spec: PreprocessSpec) -> PreprocessSpec:
    """Return the spec for a view: the whole of it at the size of the network's input."""
    resampling = (Resize, ResizeShortestEdge, ResizeKeepRatio)
    resize = next((step for step in spec.steps if isinstance(step, resampling)), None)
    height, width = spec.output_size
    whole = Resize(
        height=height,
        width=width,
        filter="bilinear" if resize is None else resize.filter,
        backend="pillow" if resize is None else resize.backend,
    )
    grey = tuple(step for step in spec.steps if isinstance(step, Grey))
    return spec.model_copy(update={"steps": (whole, *grey)})


def attention(activations: Float32) -> Float32:
    """Return where activations [n, C, h, w] are strong: Σ of squares over C, of length 1, [n, h·w].

    Zagoruyko & Komodakis 2017, eq. 2 with p = 2.
    """
    strength = np.square(activations).sum(axis=1).reshape(len(activations), -1)
    length = np.linalg.norm(strength, axis=1, keepdims=True)
    return np.asarray(strength / np.maximum(length, 1e-12), np.float32)
