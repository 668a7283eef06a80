"""Look at image files before they are divided: what shows the same, and what is broken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tidegate.models.data.duplicates import Mark, groups_of_like
from tidegate.models.data.outputs import in_order, load_pixels
from tidegate.models.data.training_data import Labelled
from tidegate.models.errors import BuildRefused
from tidegate.models.progress import follow
from tidegate.service.errors import RequestError
from tidegate.service.files import sha256_of
from tidegate.service.imaging.spec import PreprocessSpec, Resize
from tidegate.service.types import Pixels

_SIDE = 224  # pixels, at which images are compared
_ON_WHITE = PreprocessSpec(
    exif_orientation="apply",
    alpha="composite-white",
    sixteen_bit="scale",
    steps=(Resize(height=_SIDE, width=_SIDE, filter="bilinear"),),
    channel_order="rgb",
    scale=1.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
_ON_BLACK = _ON_WHITE.model_copy(update={"alpha": "composite-black"})
_OPAQUE = (".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Seen:
    """One image file that could be decoded."""

    path: Path
    class_id: int
    sha256: str
    mark: Mark


def look_at(images: Sequence[Labelled]) -> tuple[list[Seen], list[Path]]:
    """Return the images with their marks, and the files that cannot be decoded.

    Raises BuildRefused for a name that cannot be written to a splits file.
    """
    _check_names(images)
    seen: list[Seen] = []
    broken: list[Path] = []
    every = in_order(_look, follow(images, "Looking at the images"))
    for image, found in zip(images, every, strict=True):
        if found is None:
            broken.append(image.path)
        else:
            seen.append(found)
    return seen, broken


def same_pixels(images: Sequence[Seen], classes: Sequence[str]) -> list[list[Seen]]:
    """Return the images by their pixels, in an order that depends on the contents only.

    Raises BuildRefused with both names if an image is in two classes.
    """
    by_pixels: dict[bytes, list[Seen]] = defaultdict(list)
    for image in sorted(images, key=lambda image: (image.sha256, str(image.path))):
        by_pixels[image.mark.pixels].append(image)
    for first, *others in by_pixels.values():
        for other in others:
            if other.class_id != first.class_id:
                raise BuildRefused(
                    f"{first.path} ({classes[first.class_id]}) and {other.path} "
                    f"({classes[other.class_id]}) are the same image in two classes."
                )
    return list(by_pixels.values())


def alike(images: Sequence[Seen], tolerance: float) -> list[list[int]]:
    """Return the positions of images that are nearly the same, together."""
    return groups_of_like([image.mark for image in images], tolerance)


def _check_names(images: Sequence[Labelled]) -> None:
    for image in images:
        try:
            str(image.path).encode()
        except UnicodeEncodeError as error:
            raise BuildRefused(
                f"The name of {str(image.path)!r} is not UTF-8: rename it."
            ) from error


def _look(image: Labelled) -> Seen | None:
    try:
        mark = Mark.of(_pixels(image.path))
    except RequestError:
        return None
    return Seen(image.path, image.class_id, sha256_of(image.path), mark)


def _pixels(path: Path) -> Pixels:
    """Return an image's pixels; what is transparent is grey, so that a white drawing is seen."""
    white = load_pixels(path, _ON_WHITE)
    if path.suffix.lower() in _OPAQUE:
        return white
    black = load_pixels(path, _ON_BLACK)
    return Pixels(((white.astype(np.uint16) + black) // 2).astype(np.uint8))
