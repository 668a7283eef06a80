"""Run a backbone over a split of any size: outputs on disk, one image in memory per thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.duplicates import Mark, Marked
from tidegate.models.data.folders import Item, Split
from tidegate.models.data.rows import Float32, Float64, RowWriter, chunks
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import quiet_session
from tidegate.models.progress import follow, say
from tidegate.service.cpu import usable_cores
from tidegate.service.drift.reference import INPUTS
from tidegate.service.errors import RequestError
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.imaging.statistics import input_sample
from tidegate.service.types import Pixels

MAX_PIXELS = 100_000_000
_MOST_LEFT_OUT = 0.01  # of a split; more suggests that the data is wrong
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class NetworkOutputs:
    """The backbone's outputs for some images."""

    logits: Float32  # [n, C]
    features: Float32  # [n, D]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the top class of every image, [n]."""
        found = [part.argmax(axis=1) for (part,) in chunks(self.logits)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def part(self, rows: NDArray[np.bool_]) -> NetworkOutputs:
        """Return some of the images."""
        return NetworkOutputs(self.logits[rows], self.features[rows])


@dataclass(frozen=True, slots=True)
class Extracted:
    """The backbone's outputs for a split's images, in their order."""

    split: Split  # the images that could be decoded
    logits: Float32  # [n, C], memory-mapped
    features: Float32  # [n, D], memory-mapped
    inputs: Float64  # [n, len(INPUTS)]
    left_out: int  # files that could not be decoded
    marks: Sequence[Mark]

    def __len__(self) -> int:
        return len(self.split.items)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the top class of every image, [n]."""
        return self.outputs.predicted

    @property
    def outputs(self) -> NetworkOutputs:
        """Return the outputs without the images."""
        return NetworkOutputs(self.logits, self.features)

    def part(self, name: str, rows: slice) -> Extracted:
        """Return a subset of the images, as a split called `name`."""
        split = replace(self.split, name=name, items=self.split.items[rows], repeated=0)
        return Extracted(
            split,
            self.logits[rows],
            self.features[rows],
            self.inputs[rows],
            0,
            self.marks[rows],
        )

    @property
    def marked(self) -> Marked:
        """Return the split with the marks of its images."""
        return Marked(self.split, self.marks)


@dataclass(frozen=True, slots=True)
class ImagesUsed:
    """Which images of each split were used."""

    digests: dict[str, str]  # split → digest of its images
    sizes: dict[str, int]
    left_out: dict[str, int]  # split as given → files that could not be decoded

    @classmethod
    def of(cls, used: Mapping[str, Extracted], given: Mapping[str, Extracted]) -> ImagesUsed:
        """Return the images of the splits `used`, which are the splits `given` or parts of them."""
        return cls(
            digests={name: found.split.digest for name, found in used.items()},
            sizes={name: len(found) for name, found in used.items()},
            left_out={name: found.left_out for name, found in given.items()},
        )

    def and_also(self, other: ImagesUsed) -> ImagesUsed:
        """Return both combined."""
        return ImagesUsed(
            self.digests | other.digests,
            self.sizes | other.sizes,
            self.left_out | other.left_out,
        )


def extract(graph: bytes, split: Split, spec: PreprocessSpec, folder: Path) -> Extracted:
    """Return the outputs of `graph` (uint8 pixels → logits, features) for every image of `split`.

    Each image is a batch of one, so that other images do not affect its rounding. The outputs are
    written to `folder`. Raises BuildRefused if more than 1 % of the files cannot be decoded.
    """
    session = quiet_session(graph)
    logits, features = (
        RowWriter(folder / f"{split.name}.{output.name}", output.shape[1])
        for output in session.get_outputs()
    )
    inputs: list[list[float]] = []
    kept: list[Item] = []
    marks: list[Mark] = []

    def work(item: Item) -> tuple[Float32, Float32, list[float], Mark] | None:
        try:
            pixels, statistics = _load(item.path, spec)
        except RequestError:
            return None
        rows = session.run(["logits", "features"], {"pixels": pixels[None]})
        return rows[0][0], rows[1][0], statistics, Mark.of(pixels)

    results = in_order(work, follow(split.items, f"Running {split.name}"))
    with logits, features:
        for item, result in zip(split.items, results, strict=True):
            if result is not None:
                logits.append(result[0])
                features.append(result[1])
                inputs.append(result[2])
                marks.append(result[3])
                kept.append(item)
    _check_left_out(split, kept)
    return Extracted(
        split=replace(split, items=tuple(kept)),
        logits=logits.rows(),
        features=features.rows(),
        inputs=np.array(inputs, np.float64).reshape(-1, len(INPUTS)),
        left_out=len(split.items) - len(kept),
        marks=marks,
    )


def run_pixels(graph: bytes, images: Sequence[Pixels]) -> NetworkOutputs:
    """Return the outputs of images in memory."""
    session = quiet_session(graph)
    rows = list(
        in_order(lambda p: session.run(["logits", "features"], {"pixels": p[None]}), images)
    )
    logits, features = (np.concatenate(column) for column in zip(*rows, strict=True))
    return NetworkOutputs(logits, features)


def load_pixels(path: Path, spec: PreprocessSpec) -> Pixels:
    """Return an image file's preprocessed pixels. Raises RequestError if it cannot be decoded."""
    return preprocess(path.read_bytes(), spec, MAX_PIXELS)


def decodable(paths: Iterable[Path], spec: PreprocessSpec) -> Iterator[Pixels]:
    """Yield the preprocessed pixels of the image files that can be decoded."""
    for path in paths:
        try:
            pixels = load_pixels(path, spec)
        except RequestError:
            continue
        yield pixels


def _load(path: Path, spec: PreprocessSpec) -> tuple[Pixels, list[float]]:
    data = path.read_bytes()
    pixels = preprocess(data, spec, MAX_PIXELS)
    seen = input_sample(data, pixels, spec.channel_order)
    return pixels, [seen[name] for name in INPUTS]


def in_order(work: Callable[[T], R], items: Sequence[T] | Iterator[T]) -> Iterator[R]:
    """Yield `work` of every item in order, computed on all cores a bounded number ahead."""
    workers = usable_cores()
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _check_left_out(split: Split, kept: list[Item]) -> None:
    left_out = len(split.items) - len(kept)
    if not left_out:
        return
    first = next(item.path for item, other in zip_longest(split.items, kept) if item != other)
    say(f"{left_out} files of {split.name} cannot be decoded, such as {first}.")
    if left_out > _MOST_LEFT_OUT * len(split.items):
        raise BuildRefused(
            f"{left_out} of {len(split.items)} files of {split.name} cannot be decoded as "
            f"images, such as {first}; at most {_MOST_LEFT_OUT:.0%} may be. Remove or repair them."
        )
