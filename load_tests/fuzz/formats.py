"""Writers for image variants that Pillow does not write. Pure.

The caller chooses the sizes in a header, so that a few bytes can declare a huge image.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # PNG's colour types
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
# Adam7: (first column, first row, column step, row step) of each pass (PNG, third edition, §8.2).
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
Chunk = tuple[bytes, bytes]
Entry = tuple[int, int, Sequence[int]]  # (tag, type, values)
SHORT, LONG = 3, 4
_FLAT_TABLE = b"\xff\xdb\0\x43\0" + bytes([16] * 64)
_END_OF_IMAGE = b"\xff\xd9"
# Entropy-coded data with which no block ends early: each refinement visits all 63 coefficients.
_NO_EARLY_END = bytes.fromhex("0000000000016874004eea00000000b56a5d80")


def png(
    size: tuple[int, int],
    depth: int = 8,
    colour: int = RGB,
    *,
    interlaced: bool = False,
    before: Iterable[Chunk] = (),
    after: Iterable[Chunk] = (),
    fill: bytes = b"\x40\x90\xd0\x20\xff",
) -> bytes:
    """Return a PNG with chunks before and after its pixels, which repeat the bytes of `fill`."""
    width, height = size
    bits = depth * _CHANNELS[colour]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    compress = zlib.compressobj(9)
    packed = []
    for column, row, across, down in passes:
        wide, high = -(-(width - column) // across), -(-(height - row) // down)
        if wide > 0:
            line = b"\0" + (fill * (wide * bits // 8 // len(fill) + 2))[: -(-wide * bits // 8)]
            packed += [compress.compress(line) for _ in range(high)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    pixels = b"".join([*packed, compress.flush()])
    chunks = [(b"IHDR", header), *before, (b"IDAT", pixels), *after, (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(png_chunk(kind, body) for kind, body in chunks)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif_text(exif: bytes) -> Chunk:
    """Return ImageMagick's chunk for EXIF: `Raw profile type exif`, in hexadecimal."""
    text = b"\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode("ascii"))
    return b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)


def orientation_exif(orientation: int) -> bytes:
    """Return an EXIF block with one tag."""
    entry = struct.pack(">HHIHH", 0x0112, SHORT, 1, orientation, 0)
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)


def arithmetic_jpeg(side: int, scans: int) -> bytes:
    """Return a grey progressive JPEG with arithmetic coding and scans of a few bytes.

    Each scan after the first two refines all AC coefficients of every block again.
    """
    frame = b"\xff\xca" + struct.pack(">HBHHBBBB", 11, 8, side, side, 1, 1, 0x11, 0)
    conditioning = b"\xff\xcc\0\x04\x10\x05"
    start = b"\xff\xda\0\x08\x01\x01\0"
    first = start + b"\0\0\0\x4b\xc6" + conditioning
    first += start + b"\x01\x3f\x01\x4b\xc6" + _NO_EARLY_END
    later = (conditioning + start + b"\x01\x3f\x10\x4b\xc6") * max(0, scans - 2)
    return b"\xff\xd8" + _FLAT_TABLE + frame + first + later + _END_OF_IMAGE


def gif(screen: tuple[int, int], frame: tuple[int, int], disposal: int = 0) -> bytes:
    """Return a GIF with one frame; `frame` is the size that its descriptor declares."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    control = b"!\xf9\x04" + bytes([disposal << 2 | 1]) + bytes(4)
    return head + control + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02L\x01\0;"


def webp_lossless(width: int, height: int, *, predicted: bool = True) -> bytes:
    """Return a lossless WebP of one colour: a header and five codes of one symbol each.

    With `predicted` each pixel passes through the gradient predictor (WebP lossless, §4.1).
    """
    bits = _Bits()
    bits.put(0x2F, 8)
    bits.put(width - 1, 14)
    bits.put(height - 1, 14)
    bits.put(0, 1 + 3)  # no alpha, version 0
    if predicted:
        bits.put(0b001, 1 + 2)  # a transform follows: the predictor
        bits.put(7, 3)  # blocks of 512 × 512 pixels
        bits.put(0, 1)  # its image has no colour cache
        _one_symbol_codes(bits, green=12)
    bits.put(0, 1 + 1 + 1)  # no (further) transform, no colour cache, no meta codes
    _one_symbol_codes(bits, green=3)
    body = bits.packed()
    body += bytes(len(body) % 2)
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def bmp(size: tuple[int, int], bits: int, compression: int = 0, pixels: bytes = b"") -> bytes:
    """Return a BMP; with a negative height the first row is the top one."""
    width, height = size
    row = -(-width * bits // 32) * 4
    data = pixels or bytes(n * 7 % 256 for n in range(row * abs(height)))
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F) if compression == 3 else b""
    palette = b"".join(bytes([n, n, 255 - n, 0]) for n in range(1 << bits)) if bits <= 8 else b""
    start = 14 + 40 + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), *[0] * 4)
    head = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    return head + info + masks + palette + data


def tiff(entries: Sequence[Entry], data: bytes, order: str = "<") -> bytes:
    """Return a TIFF with one directory after `data`, which begins at offset 8."""
    ordered = sorted(entries)
    start = 8 + len(data) + len(data) % 2
    beyond = start + 2 + 12 * len(ordered) + 4
    directory, extra = struct.pack(f"{order}H", len(ordered)), b""
    for tag, kind, values in ordered:
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        directory += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\0")
        else:
            directory += struct.pack(f"{order}I", beyond + len(extra))
            extra += packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    body = magic + struct.pack(f"{order}I", start) + data + bytes(len(data) % 2)
    return body + directory + bytes(4) + extra


class _Bits:
    """Bits in the order of WebP: the least significant first."""

    def __init__(self) -> None:
        self._value = self._length = 0

    def put(self, value: int, length: int) -> None:
        self._value |= value << self._length
        self._length += length

    def packed(self) -> bytes:
        return self._value.to_bytes(-(-self._length // 8), "little")


def _one_symbol_codes(bits: _Bits, green: int) -> None:
    """Write the five prefix codes; a code of one symbol needs no bits per pixel."""
    for symbol in (green, 0x55, 0xAA, 0xFF, 0):
        bits.put(0b101, 3)  # simple, one symbol, of 8 bits
        bits.put(symbol, 8)
