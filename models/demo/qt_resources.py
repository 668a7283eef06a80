"""Read the files in a compiled Qt resource file (.rcc).

Format 3 of `rcc` (qtbase, src/tools/rcc/rcc.cpp): big-endian numbers; a node is 22 bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from tidegate.models.errors import BuildRefused

_HEADER = struct.Struct(">4sIIIII")  # magic, version, tree, data, names, flags
_NODE = struct.Struct(">IHII")  # name, flags, (children, first child) or (locale, data)
_NODE_BYTES = 22
_COMPRESSED, _DIRECTORY, _ZSTD = 1, 2, 4


def files(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of every file in a resource file, except Zstandard-compressed ones.

    Raises BuildRefused if `content` is not a resource file of format 3.
    """
    if len(content) < _HEADER.size or content[:8] != b"qres\0\0\0\3":
        raise BuildRefused("This is not a Qt resource file of format 3.")
    _, _, tree, data, names, _ = _HEADER.unpack_from(content)
    pending = [("", 0)]
    while pending:
        prefix, index = pending.pop()
        name, flags, first, second = _NODE.unpack_from(content, tree + _NODE_BYTES * index)
        path = prefix + _name(content, names + name) if index else ""
        if flags & _DIRECTORY:
            folder = path + "/" if path else ""
            pending += [(folder, second + child) for child in reversed(range(first))]
        elif not flags & _ZSTD:
            yield path, _data(content, data + second, flags)


def _name(content: bytes, at: int) -> str:
    length = int.from_bytes(content[at : at + 2], "big")
    return content[at + 6 : at + 6 + 2 * length].decode("utf-16-be")  # after a hash of 4 bytes


def _data(content: bytes, at: int, flags: int) -> bytes:
    size = int.from_bytes(content[at : at + 4], "big")
    raw = content[at + 4 : at + 4 + size]
    return zlib.decompress(raw[4:]) if flags & _COMPRESSED else raw
