"""Real drawn images of pinned packages, and charts of matplotlib. Tidegate draws none of them."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from PIL import Image

from tidegate.models.benchmarks.gates import emoji
from tidegate.models.demo import debian
from tidegate.models.demo.photographs import SOURCES
from tidegate.models.package_files import DOWNLOADS, Archive, find

PER_SET = 60
_SMALLEST_SIDE = 48  # pixels
_ICONS = debian.Package(
    "adwaita-icon-theme",
    "43-1",
    "4b67610565d16b604d3efd9908e8e4b5d71873c5d0f9347433df509020f22af7",
)


def data(folder: Path, downloads: Path = DOWNLOADS) -> dict[str, list[Path]]:
    """Write the images of each set below `folder`; missing packages are fetched.

    The sets are the screenshots of two manuals, e-mails as pages, charts of matplotlib, the icons
    of a desktop, and emoji.
    """
    package = {source.name: source.package for source in SOURCES}
    drawings = emoji.pictures(find(emoji.archive("google"), None, downloads))
    sets = {
        "screenshots": _matching(
            r"^usr/share/doc/HTML/.*\.png$",
            *(_files(package[name], downloads) for name in ("kphotoalbum", "palapeli-data")),
        ),
        "pages": _matching(
            r"/static/emails/(?!.*-dark).*-full\.jpg$",
            _files(package["@tabler/preview"], downloads),
        ),
        "charts": map(_chart, range(PER_SET)),
        "icons": _matching(r"/Adwaita/(48|64|96)x\d+/.*\.png$", _files(_ICONS, downloads)),
        "emoji": (picture for _, _, picture in drawings),
    }
    return {name: _written(folder / name, images) for name, images in sets.items()}


def _written(folder: Path, images: Iterable[bytes]) -> list[Path]:
    """Write PER_SET of the images, evenly spread, without small and equal ones."""
    if not folder.exists():
        large = [image for image in dict.fromkeys(images) if _side(image) >= _SMALLEST_SIDE]
        folder.mkdir(parents=True)
        for place in np.linspace(0, len(large), min(len(large), PER_SET), endpoint=False):
            (folder / f"{int(place):05d}").write_bytes(large[int(place)])
    return sorted(folder.iterdir())


def _files(package: debian.Package | Archive, downloads: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file of a package."""
    if isinstance(package, debian.Package):
        yield from debian.files(debian.fetch(package, downloads))
        return
    with tarfile.open(find(package, None, downloads)) as members:
        for member in members:
            if (reader := members.extractfile(member)) is not None:
                yield member.name, reader.read()


def _matching(pattern: str, *packages: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Yield the files whose path matches."""
    for package in packages:
        yield from (content for path, content in package if re.search(pattern, path))


def _side(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as image:
        return min(image.size)


def _chart(seed: int) -> bytes:
    """Return a PNG of lines, bars, points, shares or an image, in one of matplotlib's styles."""
    rng = np.random.default_rng(seed)
    names = list("abcdefgh")[: rng.integers(3, 9)]
    with style.context(("default", "ggplot", "bmh", "fivethirtyeight")[seed // 5 % 4]):
        figure = Figure(figsize=(rng.uniform(4, 8), rng.uniform(3, 6)), dpi=100)
        axes = figure.subplots()
        match seed % 5:
            case 0:
                axes.plot(rng.normal(size=(50, rng.integers(1, 5))).cumsum(axis=0))
            case 1:
                axes.bar(names, rng.uniform(1, 9, len(names)))
            case 2:
                x, y, levels = rng.normal(size=(3, 200))
                axes.scatter(x, y, c=levels)
            case 3:
                axes.pie(rng.uniform(1, 9, len(names)), labels=names)
            case _:
                axes.imshow(rng.normal(size=(12, 12)).cumsum(axis=0))
        axes.set_title(f"Measurement {seed}")
        content = io.BytesIO()
        figure.savefig(content, format="png")
    return content.getvalue()
