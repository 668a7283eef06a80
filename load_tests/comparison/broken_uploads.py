"""Invalid uploads that clients send. They are generated, so that none is stored in git."""

import struct
import zlib
from pathlib import Path

BOMB_SIDE = 13_000
BOMB_PIXELS_MB = BOMB_SIDE * BOMB_SIDE * 3 / (1 << 20)  # minimum for decoding it
TEXT = b"Dear server, this is a letter and not a picture.\n" * 20


def write_broken(good: Path, folder: Path) -> dict[str, Path]:
    """Write each into `folder`: `truncated` (half of `good`), `text`, `empty` and `bomb`."""
    data = good.read_bytes()
    contents = {
        "truncated": (data[: len(data) // 2], good.suffix),
        "text": (TEXT, ".jpg"),  # with the wrong suffix, as a mistaken client sends it
        "empty": (b"", ".jpg"),
        "bomb": (black_png(BOMB_SIDE), ".png"),
    }
    written = {}
    for name, (content, suffix) in contents.items():
        written[name] = folder / f"{name}{suffix}"
        written[name].write_bytes(content)
    return written


def black_png(side: int) -> bytes:
    """Return a valid black RGB PNG of `side` × `side`, about a thousandth of its pixels' size.

    Compressed row by row (PNG, third edition, §5 and §11), so that it needs little memory.
    """
    compress = zlib.compressobj(9)
    row = bytes(1 + 3 * side)  # filter type 0, then the pixels
    pixels = b"".join([*(compress.compress(row) for _ in range(side)), compress.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
