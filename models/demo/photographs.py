"""Select the photographs among the images of two Debian packages, and split them in three.

They are selected by folder and name, never by the model's output, as selecting by score would bias
the calibration. The folders were inspected once. Left out are drawings, symbols, letters, flags,
road signs, paintings, puzzle pieces, sprites and mirrored copies.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.demo import debian, qt_resources
from tidegate.models.demo.debian import Package
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.errors import BuildRefused
from tidegate.service.errors import RequestError
from tidegate.service.imaging.decode import decode
from tidegate.service.imaging.preprocess import apply
from tidegate.service.types import Pixels

PACKAGES = (
    Package(
        "tuxpaint-stamps-default",
        "2022.06.04-1",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ),
    Package(
        "gcompris-qt-data",
        "3.1-2",
        "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
    ),
)
SMALLEST_SIDE = 96  # pixels; smaller images would mostly be interpolated at 224
SPLITS = {"fit": 0.2, "fold_a": 0.4, "fold_b": 0.4}

_STAMPS = "usr/share/tuxpaint/stamps/"
_STAMPS_OUT = re.compile(
    r"(^|/)cartoon/|^(symbols|seasonal|clothes|people|naturalforces)/|^town/(flags|roadsigns)/"
    r"|_mirror$|outline|^medical/tooth$|^space/planets/0_sun$|^sports/rugby_goal_posts$"
)
_GCOMPRIS = "usr/share/gcompris-qt/rcc/"
_GCOMPRIS_IN = re.compile(
    r"^categorization/resource/images/(tools|renewable|monuments|fishes|others)/"
    r"|^erase/resource/|^clickgame/resource/sea\d"
    r"|^explore_(farm_animals|world_animals|monuments|world_music)/resource/"
    r"|^details/resource/image/(?!.*(Gogh|NightCafe|Night_Cafe|Tanguy)).*_background$"
)


@dataclass(frozen=True, slots=True)
class Photograph:
    """One preprocessed photograph."""

    name: str
    pixels: Pixels  # [224, 224, 3]
    digest: str  # sha256 of the pixels, by which duplicates are dropped


def read_photographs(sources: Iterable[tuple[str, bytes]]) -> list[Photograph]:
    """Return the photographs among (path, content) pairs, each once, sorted by digest."""
    found: dict[str, Photograph] = {}
    for name, content in _chosen(sources):
        if (pixels := _pixels(content)) is not None:
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            found.setdefault(digest, Photograph(name, pixels, digest))
    return [found[digest] for digest in sorted(found)]


def from_packages(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file of the pinned packages; their .debs are in `folder`, or fetched into it."""
    for package in PACKAGES:
        yield from debian.files(debian.fetch(package, folder))


def from_tree(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file below `root`, in which the two packages are unpacked."""
    for top in (_STAMPS, _GCOMPRIS):
        if not (root / top).is_dir():
            raise BuildRefused(f"{root} does not contain {top}: unpack both packages there.")
        for path in sorted((root / top).rglob("*")):
            if path.is_file():
                yield path.relative_to(root).as_posix(), path.read_bytes()


def split(photographs: list[Photograph]) -> dict[str, list[Photograph]]:
    """Cut the photographs, in the order of their digests, into fit, fold A and fold B."""
    start, share, parts = 0, 0.0, {}
    for name, fraction in SPLITS.items():
        share += fraction
        stop = round(share * len(photographs))
        parts[name] = photographs[start:stop]
        start = stop
    return parts


def split_digest(photographs: Iterable[Photograph]) -> str:
    """Return the sha256 of the photographs' digests, one per line."""
    return hashlib.sha256("\n".join(item.digest for item in photographs).encode()).hexdigest()


def _chosen(sources: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    for path, content in sources:
        stem = path.rsplit(".", 1)[0]
        if path.startswith(_STAMPS) and path.endswith(".png"):
            if not _STAMPS_OUT.search(stem.removeprefix(_STAMPS)):
                yield path, content
        elif path.startswith(_GCOMPRIS) and path.endswith(".rcc"):
            yield from _in_resource_file(content)


def _in_resource_file(content: bytes) -> Iterator[tuple[str, bytes]]:
    for path, image in qt_resources.files(content):
        name = path.removeprefix("gcompris/src/activities/")
        if _GCOMPRIS_IN.search(name.rsplit(".", 1)[0]) and _is_image(image):
            yield path, image


def _is_image(content: bytes) -> bool:
    return content.startswith((b"\xff\xd8\xff", b"\x89PNG")) or content[8:12] == b"WEBP"


def _pixels(content: bytes) -> Pixels | None:
    try:
        image = decode(content, PREPROCESS, lambda _size: None)
    except RequestError:
        return None
    return apply(image, PREPROCESS) if min(image.size) >= SMALLEST_SIDE else None
