"""Batches of training images whose random changes depend on the seed and the place alone.

So neither the number of loading processes nor a resumed training changes what the network sees.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.training_data import Labelled
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.transforms import Transform, load


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


def epoch_batches(
    order: NDArray[np.int64], batch: int, seed: Sequence[int]
) -> list[list[tuple[int, int]]]:
    """Return the places of an epoch's batches, whose sizes differ by at most one."""
    parts = np.array_split(np.arange(len(order)), -(-len(order) // batch))
    return [[(int(order[at]), seed_of(*seed, int(at))) for at in part] for part in parts]


def batches(images: Images, places: Sequence[Sequence[Any]], workers: int) -> Iterator[Any]:
    """Yield tensors [B, 3, H, W] and classes [B] for the batches of `places`."""
    loader = require("torch.utils.data").DataLoader(
        images,
        batch_sampler=places,
        num_workers=workers,
        worker_init_fn=_stay_on_ctrl_c,
        multiprocessing_context="fork" if workers else None,  # transforms cannot be pickled
    )
    yield from loader


def in_order(images: Images, batch: int, workers: int) -> Iterator[Any]:
    """Yield every image once, in order, without random changes."""
    places = [range(at, min(at + batch, len(images))) for at in range(0, len(images), batch)]
    yield from batches(images, places, workers)


def _stay_on_ctrl_c(worker: int) -> None:
    """Leave Ctrl-C to the process that trains, which ends after a whole step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    require("torch").set_num_threads(1)
