"""Pictures of emoji from two pinned packages, as ImageFolders with nine classes.

An emoji is in one split in both drawings of it, so no split knows those of another.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tidegate.models.build_request import Data
from tidegate.models.package_files import DOWNLOADS, Archive, find

_SHARES = {"train": 0.5, "calibrate": 0.75, "test": 1.0}  # cumulative
_VENDORS = {
    "google": "d44462c604b8b8ddeea1bded87031fe73beadd92b9569d977dbd6224e45dc850",
    "twitter": "d0a0fe56a746fac2f360ebde72c7d6949ee0fc0c683758a288d82bd6b75e15d6",
}


def data(folder: Path, downloads: Path = DOWNLOADS) -> Data:
    """Write the pictures below `folder`, and return their splits; missing packages are fetched.

    Equal pictures, as of some flags, are written once.
    """
    written: set[bytes] = set()
    for vendor in _VENDORS:
        for code, category, picture in pictures(find(archive(vendor), None, downloads)):
            if picture in written:
                continue
            written.add(picture)
            path = folder / _split(code) / category / f"{code}-{vendor}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
    train, calibrate, test = (folder / split for split in _SHARES)
    return Data(train, calibrate, test)


def archive(vendor: str) -> Archive:
    """Return the package of a vendor's drawings."""
    package, version = f"emoji-datasource-{vendor}", "15.1.2"
    command = ("npm", "pack", "--silent", f"{package}@{version}", "--pack-destination")
    filename = f"{package}-{version}.tgz"
    return Archive(package, version, filename, _VENDORS[vendor], "75 MB", command)


def pictures(package: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield the code points, the category and the PNG of 64 × 64 pixels of every emoji."""
    with tarfile.open(package) as members:
        files = {
            member.name: reader.read()
            for member in members
            if member.name.endswith("/emoji.json") or "/64/" in member.name
            if (reader := members.extractfile(member)) is not None
        }
    images = {name.rpartition("/")[2]: content for name, content in files.items()}
    for emoji in json.loads(images.pop("emoji.json")):
        picture = images.get(emoji["image"])
        if picture is not None and emoji["category"] != "Component":  # skin tones alone
            yield emoji["unified"], emoji["category"], picture


def _split(code: str) -> str:
    place = int(hashlib.sha256(code.encode()).hexdigest()[:8], 16) / 16**8
    return next(name for name, share in _SHARES.items() if place < share)
