"""Where images come from: folders, files, lists, archives, tables, and objects at an address.

Each source gives its images in one order, so that parts of a job can be skipped or shared out.
"""

from __future__ import annotations

import os
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.service.distribution.place import FileMissing
from tidegate.service.distribution.uri import parse
from tidegate.service.errors import SourceUnreadable

if TYPE_CHECKING:
    from tidegate.service.distribution.object_store import ObjectPlace

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# What reading a damaged, encrypted or missing member of an archive raises.
READ_ERRORS = (
    OSError, EOFError, RuntimeError, NotImplementedError, zlib.error, tarfile.TarError,
    zipfile.BadZipFile, FileMissing,
)  # fmt: skip
_ROWS = 256  # of a table, read together


@dataclass(frozen=True, slots=True)
class Item:
    """One image: a file that a worker reads, or a function that reads at most so many bytes now."""

    name: str
    content: Path | Callable[[int], bytes]


def items(sources: Sequence[str], listing: str | None, column: str) -> Iterator[Item]:
    """Yield the images of all sources in order.

    `listing` is a file with one path or address per line, "-" is the standard input. `column` is
    that of a Parquet table. Raises SourceUnreadable.
    """
    for source in sources:
        yield from _items(source, column)
    if listing is not None:
        for line in _lines(listing):
            yield from _items(line, column)


def count(sources: Sequence[str], listing: str | None) -> int | None:
    """Return how many images there are; None if that is only known at the end."""
    if listing is not None or not all(Path(source).is_dir() for source in sources):
        return None
    return sum(1 for source in sources for _ in _folder(Path(source)))


def _items(source: str, column: str) -> Iterator[Item]:
    if "://" in source:
        yield from _remote(source)
        return
    path = Path(source)
    name = path.name.lower()
    if path.is_dir():
        yield from _folder(path)
    elif not path.exists():
        raise SourceUnreadable(f"{source} does not exist.")
    elif name.endswith(_TAR):
        yield from _tar(path)
    elif name.endswith(".zip"):
        yield from _zip(path)
    elif name.endswith(".parquet"):
        yield from _table(path, column)
    else:
        yield Item(source, path)


def _folder(folder: Path) -> Iterator[Item]:
    """Yield the images below a folder, sorted by name within each folder."""

    def fail(error: OSError) -> None:
        raise SourceUnreadable(f"{error.filename} cannot be read: {error.strerror}.") from error

    for where, below, files in os.walk(folder, onerror=fail):
        below.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                path = os.path.join(where, name)
                yield Item(path, Path(path))


def _lines(listing: str) -> Iterator[str]:
    try:
        with open(listing, encoding="utf-8") if listing != "-" else sys.stdin as file:
            for line in file:
                if stripped := line.rstrip("\r\n"):
                    yield stripped
    except (OSError, UnicodeDecodeError) as error:
        raise SourceUnreadable(f"--list {listing} cannot be read: {error}.") from error


def _tar(path: Path) -> Iterator[Item]:
    """Yield the images of an archive, or of a shard of WebDataset, in its order."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and _is_image(member.name):
                    yield Item(f"{path}!{member.name}", _member(archive, member))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise SourceUnreadable(f"{path} cannot be read: {error}.") from error


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[int], bytes]:
    def read(most: int) -> bytes:
        file = archive.extractfile(member)
        return b"" if file is None else file.read(most)

    return read


def _zip(path: Path) -> Iterator[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir() and _is_image(member.filename):
                    yield Item(f"{path}!{member.filename}", _compressed(archive, member))
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise SourceUnreadable(f"{path} cannot be read: {error}.") from error


def _compressed(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[int], bytes]:
    def read(most: int) -> bytes:
        with archive.open(member) as file:
            return file.read(most)

    return read


def _table(path: Path, column: str) -> Iterator[Item]:
    """Yield the images in a column of bytes, or of `{bytes, path}` as data sets have it."""
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise SourceUnreadable(_NO_PARQUET) from error
    try:
        table = parquet.ParquetFile(path)
        if column not in table.schema_arrow.names:
            raise SourceUnreadable(
                f"{path} has no column {column!r} (it has {', '.join(table.schema_arrow.names)}): "
                "give --column."
            )
        row = 0
        for batch in table.iter_batches(_ROWS, columns=[column]):
            for value in batch.column(0):
                yield Item(f"{path}#{row}", _cell(value.as_py()))
                row += 1
    except (OSError, ArrowException) as error:
        raise SourceUnreadable(f"{path} cannot be read: {error}.") from error


def _cell(value: Any) -> Callable[[int], bytes]:
    return lambda most: bytes_of(value)[:most]


def bytes_of(value: Any) -> bytes:
    """Return the image in a cell of a table: bytes, or `{bytes, path}`; b"" if there is none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


def _remote(source: str) -> Iterator[Item]:
    """Yield one object, or the images below a prefix, sorted by name."""
    from tidegate.service.distribution.object_store import ObjectPlace

    address = parse(source)
    if address.scheme == "oci":
        raise SourceUnreadable(f"{source}: a registry holds bundles, not images.")
    folder, _, last = address.path.rpartition("/")
    if _is_image(last):
        place, names = ObjectPlace(replace(address, path=folder)), [last]
    else:
        place = ObjectPlace(address)
        names = sorted(name for name in place.names() if _is_image(name))
    for name in names:
        yield Item(f"{place}/{name}", _object(place, name))


def _object(place: ObjectPlace, name: str) -> Callable[[int], bytes]:
    def read(most: int) -> bytes:
        content = bytearray()
        for chunk in place.read(name):
            content += chunk
            if len(content) >= most:
                break
        return bytes(content[:most])

    return read


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


_NO_PARQUET = (
    "Parquet needs pyarrow: pip install 'tidegate[parquet]' (in a checkout: pip install -e "
    "'.[parquet]')."
)
