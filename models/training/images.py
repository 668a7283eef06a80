"""Batches of training images whose random changes depend on the seed and the place alone.

So neither the number of loading processes nor a resumed training changes what the network sees.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Generator, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.training_data import Labelled
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.transforms import Transform, load

_GRACE_S = 30  # from SIGTERM, for the training's last step
_REFUSED = f"{BuildRefused.__module__}.{BuildRefused.__qualname__}: "  # as in a traceback


def seed_of(*place: int) -> int:
    """Return a seed for torch, from a tuple of whole numbers."""
    digest = hashlib.blake2b(",".join(map(str, place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class Images:
    """A dataset for torch's DataLoader, indexed by (image, seed) or by image."""

    def __init__(self, images: Sequence[Labelled], transform: Transform) -> None:
        self.images = images
        self.class_ids = np.array([image.class_id for image in images], np.int64)
        self._transform = transform
        self._manual_seed = require("torch").manual_seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, place: tuple[int, int] | int) -> tuple[Any, int]:
        """Return the tensor [3, H, W] and the class of an image; a seed fixes random changes."""
        index, seed = place if isinstance(place, tuple) else (place, None)
        image = self.images[index]
        loaded = load(image.path)
        if seed is not None:
            self._manual_seed(seed)
        return self._transform(loaded), image.class_id


def batches_of(images: int, batch: int) -> int:
    """Return the number of batches of an epoch: of `batch` images at most, of one image never.

    A batch norm cannot be trained on one image. So an odd number of images has a batch of three if
    `batch` is two.
    """
    return min(-(-images // batch), max(1, images // 2))


def epoch_batches(
    order: NDArray[np.int64], batch: int, seed: Sequence[int]
) -> list[list[tuple[int, int]]]:
    """Return the places of an epoch's batches, whose sizes differ by at most one."""
    parts = np.array_split(np.arange(len(order)), batches_of(len(order), batch))
    return [[(int(order[at]), seed_of(*seed, int(at))) for at in part] for part in parts]


def batches(
    images: Images, places: Sequence[Sequence[Any]], workers: int
) -> Generator[Any, None, None]:
    """Yield tensors [B, 3, H, W] and classes [B] for the batches of `places`.

    Raises BuildRefused with the file's name for an image that cannot be loaded.
    """
    loader = require("torch.utils.data").DataLoader(
        images,
        batch_sampler=places,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        multiprocessing_context="fork" if workers else None,  # transforms cannot be pickled
    )
    try:
        yield from loader
    except BuildRefused as error:  # a loading process puts its traceback before the message
        raise BuildRefused(str(error).rpartition(_REFUSED)[2].strip()) from error


def in_order(images: Images, batch: int, workers: int) -> Iterator[Any]:
    """Yield every image once, in order, without random changes."""
    places = [range(at, min(at + batch, len(images))) for at in range(0, len(images), batch)]
    yield from batches(images, places, workers)


def _leave_signals(worker: int) -> None:
    """Leave signals to the process that trains, which ends after a whole step.

    Ctrl-C, service managers and batch systems send them to all processes of a group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    require("torch").set_num_threads(1)


def _end_later(number: int, frame: FrameType | None) -> None:
    """End this process in a while, although the training may have failed to close it."""
    signal.alarm(_GRACE_S)
