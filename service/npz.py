"""Read arrays of numbers and text from an .npz archive that may be damaged or hostile.

`numpy.load` parses a header with Python's parser and trusts its shape: a damaged file raises errors
of a dozen classes, or makes it allocate terabytes. This reader accepts only what numpy writes.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 256 << 20  # uncompressed, of all arrays that are read
_MOST_MEMBERS = 4096
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][biufUS][0-9]{1,6})', 'fortran_order': (True|False), "
    rb"'shape': \((|[0-9]{1,15},|[0-9]{1,15}(?:, [0-9]{1,15}){1,7})\), \} *\n"
)
_ENCRYPTED = 0x1
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LAST_CODE_POINT = 0x10FFFF
# What zipfile raises for an invalid archive: its own errors and those of the functions it calls.
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
    MemoryError,
)


class NotAnArchive(ValueError):
    """The content is not an archive of arrays, or exceeds the limits."""


def read_npz(
    content: bytes, fields: Iterable[str] | None = None, most_bytes: int = MOST_BYTES
) -> dict[str, NDArray[Any]]:
    """Return the arrays named `fields`, or all; they are read-only.

    At most `most_bytes` are read; the sizes in the archive's directory are checked before anything
    is allocated. Raises KeyError for a missing field, and NotAnArchive for every other defect.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive)
            wanted = list(members if fields is None else fields)
            for field in wanted:
                if field not in members:
                    raise KeyError(field)
            if sum(members[field].file_size for field in wanted) > most_bytes:
                raise NotAnArchive(f"the arrays are larger than {most_bytes:,} bytes")
            return {field: _array(field, _content(archive, members[field])) for field in wanted}
    except NotAnArchive:
        raise
    except _ERRORS as error:
        raise NotAnArchive(str(error) or type(error).__name__) from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise NotAnArchive(f"the archive has more than {_MOST_MEMBERS} members")
    return {member.filename.removesuffix(".npy"): member for member in members}


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & _ENCRYPTED:
        raise NotAnArchive(f"{member.filename!r} is encrypted")
    if member.compress_type not in _PLAIN:
        raise NotAnArchive(f"{member.filename!r} has an unsupported compression method")
    with archive.open(member) as file:
        content = file.read(member.file_size)
        file.read(1)  # zipfile compares the checksum at the end of the file
    if len(content) != member.file_size:
        raise NotAnArchive(f"{member.filename!r} is truncated")
    return content


def _array(name: str, content: bytes) -> NDArray[Any]:
    start = len(_MAGIC) + 2
    size = int.from_bytes(content[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(content[start : start + size])
    if content[: len(_MAGIC)] != _MAGIC or header is None:
        raise NotAnArchive(f"{name!r} has no valid header of an array of numbers or text")
    try:
        dtype = np.dtype(header[1].decode())
    except TypeError as error:  # for example a float of 3 bytes
        raise NotAnArchive(f"{name!r}: {error}") from error
    shape = tuple(int(length) for length in re.findall(rb"[0-9]+", header[3]))
    data = content[start + size :]
    if math.prod(shape) * dtype.itemsize != len(data) or not dtype.itemsize:
        raise NotAnArchive(f"{name!r} has {len(data)} bytes, which does not match shape {shape}")
    if dtype.kind == "U" and np.frombuffer(data, "<u4").max(initial=0) > _LAST_CODE_POINT:
        raise NotAnArchive(f"{name!r} is not valid text")
    flat: NDArray[Any] = np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if header[2] == b"True" else "C")
