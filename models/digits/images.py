"""Write the digits as three disjoint splits, and five OOD sets, as folders.

Each digit is split by content, in the order of the pixels' digests. OOD images derived from digits
are derived from the test split, so none of their originals are used in training or calibration.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from tidegate.models.digits.archives import SIDE, Grey, read_digits, read_faces, read_silhouettes
from tidegate.models.digits.sources import ANIMALS, ARCHIVES, FACES, MNIST
from tidegate.models.fitting import synthetic_ood
from tidegate.models.package_files import DOWNLOADS, find
from tidegate.models.progress import follow, say
from tidegate.models.sealing.write import locked

FOLDER = DOWNLOADS / "digits"
LABELS = tuple("0123456789")
SPLITS = {"train": 0.5, "calibrate": 0.3, "test": 0.2}
OOD = ("silhouettes", "inverted", "rotated 90°", "faces", "noise")
# A quarter turn leaves a round 0, an 8 and a slanted 1 in-distribution, so they are not turned.
TURNED = (2, 3, 4, 5, 6, 7, 9)
_MOST_SILHOUETTES = 2000
_NOISE, _NOISE_SEED = 500, 28
_IMAGES, _MARK = "images", "made-by"
Digits = Mapping[str, tuple[Grey, ...]]  # split → images of each digit


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of the images: three ImageFolders, and OOD sets by name."""

    train: Path
    calibrate: Path
    test: Path
    ood: Mapping[str, Path]


def data(sources: Path | None = None, folder: Path = FOLDER) -> Folders:
    """Return the folders below `folder`, writing them first unless they are complete.

    `sources` is a folder with the three packages' files; by default they are read from
    models/downloads, or fetched into it. Raises BuildRefused if one cannot be fetched.
    """
    with locked(folder, lambda: say("Another process is writing the digits; waiting.")):
        images = folder / _IMAGES
        if _mark(images) != _expected(images):
            _make(sources, folder, images)
    train, calibrate, test = (images / split for split in SPLITS)
    return Folders(train, calibrate, test, {name: images / name for name in OOD})


def cut_by_content(images: Grey) -> dict[str, Grey]:
    """Return the splits of one digit's images [n, H, W], each image once, in any input order."""
    once = {hashlib.sha256(image.tobytes()).digest(): image for image in images}
    ordered = np.stack([once[digest] for digest in sorted(once)])
    bounds = np.rint(np.cumsum([0.0, *SPLITS.values()]) * len(ordered)).astype(int).tolist()
    return {
        split: ordered[start:stop]
        for split, (start, stop) in zip(SPLITS, pairwise(bounds), strict=True)
    }


def split_digits(digits: Iterable[Grey]) -> Digits:
    """Return the splits of all digits, from the images of each."""
    cuts = [cut_by_content(images) for images in digits]
    return {split: tuple(cut[split] for cut in cuts) for split in SPLITS}


def no_digits(test: tuple[Grey, ...], silhouettes: Grey, faces: Grey) -> dict[str, Grey]:
    """Return the images of each OOD set; `test` is the test split by digit."""
    once = {hashlib.sha256(image.tobytes()).digest(): image for image in silhouettes}
    return {
        "silhouettes": np.stack([once[key] for key in sorted(once)[:_MOST_SILHOUETTES]]),
        "inverted": 255 - np.concatenate(test),
        "rotated 90°": np.rot90(np.concatenate([test[d] for d in TURNED]), axes=(1, 2)),
        "faces": faces,
        "noise": _noise(),
    }


def _noise() -> Grey:
    """Return images of uniform noise."""
    rng = np.random.default_rng(_NOISE_SEED)
    make = synthetic_ood.KINDS["uniform noise"].draw
    return np.stack([make(rng, SIDE, SIDE)[..., 0] for _ in range(_NOISE)])


def _make(sources: Path | None, folder: Path, images: Path) -> None:
    digits = split_digits(read_digits(find(MNIST, sources)))
    silhouettes, faces = (
        read_silhouettes(find(ANIMALS, sources)),
        read_faces(find(FACES, sources)),
    )
    draft = folder / ".building-images"  # `locked` removes it if the writer was killed
    for path, image in follow(list(_named(digits, silhouettes, faces)), "Writing the digits"):
        (draft / path).parent.mkdir(parents=True, exist_ok=True)
        (draft / path).write_bytes(_png(image))
    (draft / _MARK).write_text(_expected(draft))
    if images.exists():
        shutil.rmtree(images)
    draft.rename(images)


def _named(digits: Digits, silhouettes: Grey, faces: Grey) -> Iterator[tuple[str, Grey]]:
    """Yield every image with its path: split/digit/n.png or set/n.png."""
    for split, by_digit in digits.items():
        for label, images in zip(LABELS, by_digit, strict=True):
            yield from ((f"{split}/{label}/{n:04}.png", image) for n, image in enumerate(images))
    for name, images in no_digits(digits["test"], silhouettes, faces).items():
        yield from ((f"{name}/{n:04}.png", image) for n, image in enumerate(images))


def _png(image: Grey) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(content, "PNG")
    return content.getvalue()


def _mark(images: Path) -> str:
    try:
        return (images / _MARK).read_text()
    except OSError:  # nothing written yet
        return ""


def _expected(images: Path) -> str:
    """Return the mark for these files: a digest of the recipe and of all names and contents."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for archive in ARCHIVES:
        digest.update(archive.sha256.encode())
    for path in sorted(images.rglob("*.png")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(images).as_posix()} {content}\n".encode())
    return digest.hexdigest()
