"""Where images come from: folders, files, lists, archives, tables, and objects at an address.

Each source gives its images in one order, so that parts of a job can be skipped or shared out.
"""

from __future__ import annotations

import itertools
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tidegate.service.distribution.place import FileMissing
from tidegate.service.distribution.uri import Address
from tidegate.service.errors import SourceUnreadable

if TYPE_CHECKING:
    import pyarrow

    from tidegate.service.distribution.object_store import ObjectPlace

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_STORES = ("s3", "gs", "az", "https")
# What reading a damaged, encrypted or missing archive, member or object raises.
READ_ERRORS = (
    OSError, EOFError, RuntimeError, ValueError, KeyError, zlib.error, lzma.LZMAError,
    tarfile.TarError, zipfile.BadZipFile, FileMissing,
)  # fmt: skip
_ENDS = (tarfile.EOFHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]  # no stub
_ROWS = 256  # of a table, read together
_MEMBERS = 500  # of an archive, from which the number of its images is estimated


@dataclass(frozen=True, slots=True)
class Item:
    """One image: a file that a worker reads, or a function that reads at most so many bytes now."""

    name: str
    content: Path | Callable[[int], bytes]
    is_remote: bool = False  # then the function may be called on any thread, before its turn


def items(sources: Sequence[str], listing: str | None, column: str) -> Iterator[Item]:
    """Yield the images of all sources in order.

    `listing` is a file with one path or address per line, "-" is the standard input; an image that
    it names need not exist. `column` is that of a Parquet table. Raises SourceUnreadable.
    """
    for source in sources:
        yield from _items(source, column)
    if listing is not None:
        for line in _lines(listing):
            if _is_image(line) and "://" not in line and not os.path.isdir(line):
                yield Item(line, Path(line))
            else:
                yield from _items(line, column)


class Count(NamedTuple):
    """How many images there are, or about how many."""

    images: int
    is_exact: bool


def count(sources: Sequence[str], listing: str | None) -> Count | None:
    """Return how many images there are; None if that is only known at the end."""
    if listing is not None and not os.path.isfile(listing):
        return None  # a pipe can be read only once
    images, is_exact = 0, True
    lines = () if listing is None else _lines(listing)
    for source in itertools.chain(sources, lines):
        found = _count(source)
        if found is None:
            return None
        images, is_exact = images + found.images, is_exact and found.is_exact
    return Count(images, is_exact)


def _count(source: str) -> Count | None:
    name, path = source.lower(), Path(source)
    try:
        if _is_image(source):
            return Count(1, is_exact=True)
        if "://" in source or name.endswith(_TAR[1:]):
            return None
        if name.endswith(".tar"):
            return _tar_count(path)
        if name.endswith(".zip"):
            return Count(sum(1 for _ in _zip(path)), is_exact=True)
        if name.endswith(".parquet"):
            from pyarrow import parquet

            return Count(parquet.ParquetFile(path).metadata.num_rows, is_exact=True)
        return Count(sum(1 for _ in _folder(path)), is_exact=True)
    except (SourceUnreadable, ModuleNotFoundError, *READ_ERRORS):
        return None  # reading it says why


def _tar_count(path: Path) -> Count:
    """Estimate the images of an archive from its first members: others may be on a slow disk."""
    images = 0
    with tarfile.open(path, "r:") as archive:
        for member in itertools.islice(archive, _MEMBERS):
            images += member.isfile() and _is_image(member.name)
        if archive.next() is None:
            return Count(images, is_exact=True)
        return Count(round(images * path.stat().st_size / archive.offset), is_exact=False)


def _items(source: str, column: str) -> Iterator[Item]:
    if "://" in source:
        yield from _remote(source)
        return
    path = Path(source)
    name = path.name.lower()
    if os.path.isdir(source):  # unlike Path.is_dir, it raises nothing
        yield from _folder(path)
    elif not os.path.exists(source):
        raise SourceUnreadable(f"{source} does not exist, or may not be read.")
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
    """Yield the lines that are not empty. Bytes that are not UTF-8 stay, as in names of files."""
    place = 0 if listing == "-" else listing
    try:
        with open(
            place, encoding="utf-8-sig", errors="surrogateescape", newline="\n", closefd=place != 0
        ) as file:
            for line in file:
                if stripped := line.rstrip("\r\n"):
                    yield stripped
    except OSError as error:
        raise SourceUnreadable(f"--list {listing} cannot be read: {error.strerror}.") from error


class _Header(tarfile.TarInfo):
    """A member's header. `tarfile` takes a damaged one for the end, and the rest would be lost."""

    __slots__ = ()

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except _ENDS:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from error


def _tar(path: Path) -> Iterator[Item]:
    """Yield the images of an archive, or of a shard of WebDataset, in its order."""
    try:
        with tarfile.open(path, tarinfo=_Header) as archive:
            for member in archive:
                # A file with several names is a file once, and then links to it.
                if (member.isfile() or member.islnk()) and _is_image(member.name):
                    yield Item(f"{path}!{member.name}", _member(archive, member))
    except READ_ERRORS as error:
        reason = str(error).partition(":\n")[0]  # the first line, if each kind of archive has one
        raise SourceUnreadable(f"{path} cannot be read: {reason}.") from error


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
    except READ_ERRORS as error:
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
        kind = table.schema_arrow.field(column).type
        if not _has_bytes(kind):
            raise SourceUnreadable(f"{path}: the column {column!r} has {kind}, not bytes.")
        row = 0
        for batch in table.iter_batches(_ROWS, columns=[column]):
            for value in batch.column(0):
                yield Item(f"{path}#{row}", _cell(value.as_py()))
                row += 1
    except (OSError, ValueError, ArrowException) as error:
        raise SourceUnreadable(f"{path} cannot be read: {error}.") from error


def _has_bytes(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _has_bytes(kind.value_type)
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _has_bytes(kind.field(index).type)
    return any(
        is_kind(kind)
        for is_kind in (
            types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view
        )
    )  # fmt: skip


def _cell(value: Any) -> Callable[[int], bytes]:
    return lambda most: bytes_of(value)[:most]


def bytes_of(value: Any) -> bytes:
    """Return the image in a cell of a table: bytes, or `{bytes, path}`; b"" if there is none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


def _remote(source: str) -> Iterator[Item]:
    """Yield one object, or the images below a prefix, sorted by name."""
    scheme, _, rest = source.partition("://")
    host, _, path = rest.partition("/")
    if scheme not in _STORES or not host or "@" in host:
        raise SourceUnreadable(
            f"{source} must be s3://, gs://, az:// or https://, a bucket, container or host, and a "
            "path, without a user."
        )
    if scheme == "https" and ("?" in path or "#" in path):
        raise SourceUnreadable(f"{source}: an address with ? or # cannot be read.")
    if path.lower().endswith((*_TAR, ".zip", ".parquet")):
        raise SourceUnreadable(f"{source}: archives and tables are read from files: copy it first.")
    folder, _, last = path.strip("/").rpartition("/")
    if _is_image(last):
        place, names = _place(Address(scheme, host, folder, None)), [last]
    else:
        place = _place(Address(scheme, host, path.strip("/"), None))
        names = sorted(name for name in place.names() if _is_image(name))
    for name in names:
        yield Item(f"{place}/{name}", _object(place, name), is_remote=True)


@lru_cache(maxsize=16)  # a list may have a million addresses: each place has connections of its own
def _place(address: Address) -> ObjectPlace:
    from tidegate.service.distribution.object_store import ObjectPlace

    return ObjectPlace(address)


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
