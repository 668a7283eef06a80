"""A large set of varied images made of a few photographs, with broken and hostile files in it.

Deterministic: image i depends only on the seed and on i, so that no set is stored in git.
"""

import io
import tarfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from load_tests.client.synthetic_images import SIZE, Picture, encoded
from load_tests.comparison.broken_uploads import BOMB_SIDE, TEXT, black_png

QUALITY = 80
_TOO_LONG = 17 << 20  # bytes; the service's limit is 16 MiB
_SMALLEST_PART = 0.45  # of a photograph's sides, that an image shows
# Kinds of bad files and how many of a thousand bad ones there are. What is too long takes 17 MB.
BAD = {
    "truncated": 330,
    "text": 160,
    "noise": 200,
    "damaged": 200,
    "empty": 50,
    "bomb": 55,
    "long": 5,
}
EMPTY = "empty"


class ImageSet:
    """Makes the images of a set, one by one."""

    def __init__(self, photographs: Sequence[Path], bad_share: float, seed: int) -> None:
        self._photographs = [_opened(path) for path in photographs]
        self._names = [path.stem for path in photographs]
        self._bad_share = bad_share
        self._seed = seed

    @cached_property
    def _bomb(self) -> bytes:
        return black_png(BOMB_SIDE)

    def picture(self, number: int) -> Picture:
        """Return image `number`: part of a photograph, perhaps mirrored or darker, or bad."""
        rng = np.random.default_rng([self._seed, number])
        is_bad = bool(rng.random() < self._bad_share)
        choice = int(rng.integers(len(self._photographs)))
        good = encoded(
            f"{number:06}-{self._names[choice]}", _varied(self._photographs[choice], rng),
            "JPEG", int(rng.integers(QUALITY - 15, QUALITY + 11)),
        )  # fmt: skip
        return self._bad(number, good.data, rng) if is_bad else good

    def _bad(self, number: int, good: bytes, rng: np.random.Generator) -> Picture:
        shares = np.array(list(BAD.values())) / sum(BAD.values())
        kind = str(rng.choice(list(BAD), p=shares))
        data, suffix = b"", "jpg"
        if kind == "truncated":
            data = good[: int(rng.integers(2, len(good) - 2))]
        elif kind == "text":
            data = TEXT
        elif kind == "noise":
            data = rng.bytes(int(rng.integers(1, 50_000)))
        elif kind == "damaged":
            data = _damaged(good, rng)
        elif kind == "bomb":
            data, suffix = self._bomb, "png"
        elif kind == "long":
            data = good + bytes(_TOO_LONG - len(good))
        return Picture(f"{number:06}-bad-{kind}.{suffix}", data)


def write_shard(images: ImageSet, numbers: range, path: Path) -> int:
    """Write images into a tar archive; return its bytes."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            picture = images.picture(number)
            member = tarfile.TarInfo(picture.name)
            member.size = len(picture.data)
            archive.addfile(member, io.BytesIO(picture.data))
    return path.stat().st_size


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def _varied(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = photograph.size
    share = rng.uniform(_SMALLEST_PART, 1.0)
    left, top = (1 - share) * rng.random(2) * (width, height)
    box = (left, top, left + share * width, top + share * height)
    image = photograph.resize(SIZE, Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    gain, offset = rng.uniform(0.75, 1.2), rng.uniform(-15, 15)
    levels = [min(255, max(0, round(gain * level + offset))) for level in range(256)]
    return image.point(levels * 3)


def _damaged(good: bytes, rng: np.random.Generator) -> bytes:
    """Return a JPEG with twenty bytes of its data changed."""
    data = bytearray(good)
    for place in rng.integers(len(data) // 4, len(data) - 2, 20).tolist():
        data[place] = int(rng.integers(256))
    return bytes(data)
