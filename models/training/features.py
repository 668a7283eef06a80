"""The features of a frozen backbone for images, kept on disk.

They depend on the backbone, the preprocessing and the image, so each image is computed once for all
trainings that use the same folder. Files are only added, each complete, so a killed run loses at
most one of them, and runs can share the folder.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.models.data.outputs import in_order, load_pixels
from tidegate.models.data.training_data import Labelled
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.new_head import encoder
from tidegate.models.graphs.session import quiet_session
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.progress import follow
from tidegate.service.errors import RequestError
from tidegate.service.files import sha256_of, write_atomically
from tidegate.service.imaging.spec import PreprocessSpec

Float32 = NDArray[np.float32]
_PER_FILE = 512  # images
_MOST_BROKEN = 0.01


@dataclass(frozen=True, slots=True)
class Features:
    """The features of the images that could be decoded."""

    values: Float32  # [n, D]
    class_ids: NDArray[np.int64]  # [n]
    left_out: tuple[Path, ...]  # files that could not be decoded


@dataclass(frozen=True, slots=True)
class _Digested:
    path: Path
    sha256: str


def features(
    backbone: onnx.ModelProto, spec: PreprocessSpec, images: Sequence[Labelled], cache: Path
) -> Features:
    """Return the backbone's features of `images`; those that `cache` has are not computed again.

    Raises BuildRefused if over 1 % of the files cannot be decoded.
    """
    graph = encoder(backbone).SerializeToString(deterministic=True)
    key = hashlib.sha256(graph + spec.digest.encode()).hexdigest()
    digested = [_Digested(image.path, sha256_of(image.path)) for image in images]
    known = _Kept(cache / key)
    missing = list({one.sha256: one for one in digested if one.sha256 not in known.rows}.values())
    broken = known.add(_computed(graph, spec, missing)) if missing else set[str]()
    left_out = [one.path for one in digested if one.sha256 in broken]
    if len(left_out) > _MOST_BROKEN * len(images):
        raise BuildRefused(
            f"{len(left_out)} of {len(images)} training images cannot be decoded, such as "
            f"{left_out[0]}: remove or repair them."
        )
    kept = [at for at, one in enumerate(digested) if one.sha256 not in broken]
    return Features(
        np.stack([known.rows[digested[at].sha256] for at in kept]),
        np.array([images[at].class_id for at in kept], np.int64),
        tuple(left_out),
    )


def _computed(
    graph: bytes, spec: PreprocessSpec, images: Sequence[_Digested]
) -> Iterator[tuple[str, Float32 | None]]:
    """Yield the digest and the features of every image, None if it cannot be decoded."""
    session = quiet_session(graph)
    entry = session.get_inputs()[0].name

    def work(image: _Digested) -> tuple[str, Float32 | None]:
        try:
            pixels = load_pixels(image.path, spec)
        except RequestError:
            return image.sha256, None
        (found,) = session.run(["features"], {entry: normalised(pixels, spec)[None]})
        return image.sha256, found[0]

    yield from in_order(work, follow(images, "Computing features"))


class _Kept:
    """The features in a folder, by the sha256 of their image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows: dict[str, Float32] = {}
        for path in sorted(folder.glob("*.npz")):
            try:
                with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                    self.rows |= zip(file["sha256"].tolist(), file["features"], strict=True)
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)  # damaged: they are computed again

    def add(self, found: Iterator[tuple[str, Float32 | None]]) -> set[str]:
        """Keep what `found` yields; return the digests of images without features."""
        broken: set[str] = set()
        while some := list(islice(found, _PER_FILE)):
            broken |= {digest for digest, values in some if values is None}
            if new := {digest: values for digest, values in some if values is not None}:
                self._write(new)
        return broken

    def _write(self, rows: Mapping[str, Float32]) -> None:
        content = io.BytesIO()
        np.savez(content, sha256=np.array([*rows]), features=np.stack([*rows.values()]))
        name = hashlib.sha256("".join(rows).encode()).hexdigest()[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / f"{name}.npz", content.getvalue())
        self.rows |= rows
