"""Select the photographs among the images of pinned packages, and split them in three.

They are selected by folder and name, never by the model's output, as selecting by score would bias
the calibration. The folders were inspected once. Left out are drawings, symbols, letters, flags,
road signs, paintings, puzzle pieces, sprites, mirrored copies, logos, screenshots and renderings.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.demo import debian, qt_resources
from tidegate.models.demo.debian import Package
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.package_files import Archive, find
from tidegate.service.errors import RequestError
from tidegate.service.imaging.decode import decode
from tidegate.service.imaging.preprocess import apply
from tidegate.service.types import Pixels

SMALLEST_SIDE = 96  # pixels; smaller images would mostly be interpolated at 224
SPLITS = {"fit": 0.2, "fold_a": 0.4, "fold_b": 0.4}
_NEAR = 26  # differing bits of 256; copies of one photograph in two sizes differ in about ten


@dataclass(frozen=True, slots=True)
class Source:
    """One package, and the paths in it that are photographs."""

    package: Package | Archive
    licence: str
    chosen: re.Pattern[str]
    left_out: re.Pattern[str] = re.compile(r"(?!)")

    @property
    def name(self) -> str:
        return self.package.name if isinstance(self.package, Package) else self.package.package


@dataclass(frozen=True, slots=True)
class Photograph:
    """One preprocessed photograph."""

    source: str
    name: str  # its path in the package
    pixels: Pixels  # [224, 224, 3]
    digest: str  # sha256 of the pixels


def _npm(
    package: str, version: str, sha256: str, size: str, chosen: str, left_out: str = "(?!)"
) -> Source:
    filename = f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
    command = ("npm", "pack", "--silent", f"{package}@{version}", "--pack-destination")
    archive = Archive(package, version, filename, sha256, size, command)
    return Source(archive, "MIT", re.compile(chosen), re.compile(left_out))


SOURCES = (
    Source(
        Package(
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        ),
        "GPL-2",
        re.compile(r"^usr/share/tuxpaint/stamps/.*\.png$"),
        re.compile(
            r"/cartoon/|/stamps/(symbols|seasonal|clothes|people|naturalforces)/"
            r"|/town/(flags|roadsigns)/|_mirror\.png$|outline|/medical/tooth\.png$"
            r"|/space/planets/0_sun\.png$|/sports/rugby_goal_posts\.png$|/food/pizza\.png$"
            r"|/animals/(mammals/hedgehog|insects/(bee|fly))\.png$"
        ),
    ),
    Source(
        Package(
            "gcompris-qt-data",
            "3.1-2",
            "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        ),
        "GPL-3+ and others, per file",
        re.compile(
            r"^categorization/resource/images/(tools|renewable|monuments|fishes|others)/"
            r"|^erase/resource/|^clickgame/resource/sea\d"
            r"|^explore_(farm_animals|world_animals|monuments|world_music)/resource/"
            r"|^details/resource/image/.*_background\."
        ),
        re.compile(r"^details/.*(Gogh|NightCafe|Night_Cafe|Tanguy)"),
    ),
    Source(
        Package(
            "kphotoalbum",
            "5.9.1-1",
            "00f8b26b5db1beb30a822d15f464b3c68ffa556d267870aa98a59aaaaf81ec43",
            architecture="amd64",
        ),
        "GPL-2+",
        re.compile(r"^usr/share/kphotoalbum/demo/[^/]+\.jpg$"),
        re.compile(r"qt-logo"),
    ),
    Source(
        Package(
            "palapeli-data",
            "4:22.12.3-1",
            "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058",
        ),
        "GPL-2+ and others, per file",
        re.compile(r"^usr/share/palapeli/collection/.*\.jpg$"),
    ),
    _npm(
        "tabler-ui",
        "0.0.34",
        "04167737bbd743dc4f504b5a0f38bf0afe3e79b75352f057c22dbd79d276c899",
        "35 MB",
        r"^package/dist/demo/(photos/.*-1500|faces/(fe)?male/\d+)\.jpg$",
    ),
    _npm(
        "@tabler/preview",
        "1.2.0",
        "97d1520d8f1e42b50d56eebc498074e51884271e5fc9fe8a1e3a2e6dfdd80b82",
        "81 MB",
        r"^package/dist/static/(photos|products|marketing)/.*\.jpg$",
        r"texture|geometric|color-palette",
    ),
    _npm(
        "material-kit",
        "2.0.4",
        "543712c988b2697c61a7ef6c9527ebf850b21b56e1bdfd7258fc6d333f725602",
        "6 MB",
        r"^package/assets/img/.*\.jpg$",
        r"/(landing|profile)\.jpg$",
    ),
    _npm(
        "material-dashboard",
        "3.1.0",
        "424b8c15e9446bae383106122e22e37a349139ee6fb4b94e214a6ffabc8b41b0",
        "15 MB",
        r"^package/assets/img/.*\.jpg$",
        r"/illustrations/",
    ),
    _npm(
        "soft-ui-design-system",
        "1.0.4",
        "b999a9fe6dc31469bcb498c9d0560ac17060d76957abe7f1cb1c2dddf61a5095",
        "15 MB",
        r"^package/assets/img/.*\.jpg$",
        r"/curved-images/",
    ),
    _npm(
        "startbootstrap-creative",
        "7.0.7",
        "746c2e46c5292e797358c90533ed695fbeb6ceff58ad7fd43284d93e9c3d0555",
        "3 MB",
        r"^package/dist/assets/img/(bg-masthead|portfolio/fullsize/\d)\.jpg$",
    ),
    _npm(
        "adminbsb-materialdesign",
        "1.0.7",
        "2216b6b2af46fcd1037015c73a49f23ebf29d1f446d96f6e916aaa2eaddb508a",
        "23 MB",
        r"^package/images/(image-gallery/\d+|animation-bg|profile-post-image|user(-lg)?)\.jpg$",
    ),
    _npm(
        "uikit",
        "3.25.29",
        "d1510e125df162f473fd009692723d9ca474f3ea908db097eb8fc15baadc210c",
        "6 MB",
        r"^package/tests/images/(photo|size|slider)[^/]*\.jpg$",
    ),
)


def photographs(folder: Path) -> list[Photograph]:
    """Return the photographs of all sources; missing packages are fetched into `folder`."""
    found = [
        photograph
        for source in SOURCES
        for photograph in read_photographs(source, _files(source, folder))
    ]
    return without_copies(found)


def read_photographs(source: Source, files: Iterable[tuple[str, bytes]]) -> list[Photograph]:
    """Return the photographs of `source` among its files, (path, content) pairs."""
    found = []
    for path, content in files:
        wanted = source.chosen.search(path) and not source.left_out.search(path)
        if wanted and (pixels := _pixels(content)) is not None:
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            found.append(Photograph(source.name, path, pixels, digest))
    return found


def without_copies(photographs: Iterable[Photograph]) -> list[Photograph]:
    """Return the photographs sorted by digest, without those that look like an earlier one."""
    kept: list[Photograph] = []
    hashes = np.empty((0, 256), np.bool_)
    for item in sorted(photographs, key=lambda item: item.digest):
        own = _difference_hash(item.pixels)
        if not len(kept) or np.count_nonzero(hashes != own, axis=1).min() > _NEAR:
            kept.append(item)
            hashes = np.vstack([hashes, own])
    return kept


def split(photographs: list[Photograph]) -> dict[str, list[Photograph]]:
    """Cut the photographs of each source, in the order of their digests, into fit, fold A, fold B.

    So every part has the same share of each source.
    """
    parts: dict[str, list[Photograph]] = {name: [] for name in SPLITS}
    for source in sorted({item.source for item in photographs}):
        items = [item for item in photographs if item.source == source]
        start, share = 0, 0.0
        for name, fraction in SPLITS.items():
            share += fraction
            stop = round(share * len(items))
            parts[name] += items[start:stop]
            start = stop
    return parts


def split_digest(photographs: Iterable[Photograph]) -> str:
    """Return the sha256 of the photographs' digests, one per line."""
    return hashlib.sha256("\n".join(item.digest for item in photographs).encode()).hexdigest()


def _files(source: Source, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file of a package, and of Qt resource files in it."""
    if isinstance(source.package, Archive):
        yield from _members(find(source.package, downloads=folder))
        return
    for path, content in debian.files(debian.fetch(source.package, folder)):
        if path.endswith(".rcc"):
            for name, inner in qt_resources.files(content):
                yield name.removeprefix("gcompris/src/activities/"), inner
        else:
            yield path, content


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (reader := archive.extractfile(member)) is not None:
                yield member.name, reader.read()


def _pixels(content: bytes) -> Pixels | None:
    """Return the preprocessed pixels, or None for a small image or what is no image."""
    try:
        image = decode(content, PREPROCESS, lambda _size: None)
    except RequestError:
        return None
    return apply(image, PREPROCESS) if min(image.size) >= SMALLEST_SIDE else None


def _difference_hash(pixels: Pixels) -> NDArray[np.bool_]:
    """Return whether each of 16 × 16 patches is brighter than the one to its right, [256]."""
    small = Image.fromarray(pixels).convert("L").resize((17, 16), Image.Resampling.BOX)
    grey = np.asarray(small, np.int16)
    return np.asarray(grey[:, :-1] > grey[:, 1:]).ravel()
